-- Who shares: the members of a group and their order, as `proxy/policy/shares.py` has it.
-- Invariants: a member has one mark in the order if it waits, one if it is idle and remembered, else none. One that is idle, at or below
-- the floor and without remembered accounts is forgotten: it would start there anyhow, for the floor never falls. So forgetting loses
-- nothing, but where a group has more idle members above the floor than IDLE_MAX: then those least above it start at the floor, too.

local FORGET_EVERY, FORGOTTEN_MAX, IDLE_MAX, MARKS_MAX = 8, 16, 10000, 1000

local function served(spent, weight)
  local scaled = spent * SCALE
  return (scaled - math.fmod(scaled, weight)) / weight
end

-- One more ticket of a member waits. Lift: one that had none waiting is raised to the floor.
local function join(m, weight, step)
  m.touched = true
  if is_idle(m) then m.of.active = m.of.active + 1 end
  if m.waiting == 0 then m.v, m.since = math.max(m.v, floor_of(m.of)), step end
  m.weight, m.waiting = weight, m.waiting + 1
end

-- A waiting ticket of a member takes a seat: the clock follows.
local function sit(m, step)
  m.touched = true
  m.of.clock = math.max(m.of.clock, m.v)
  m.waiting, m.seated, m.since = m.waiting - 1, m.seated + 1, step
end

-- A ticket of a member ends. Once a group has none at all, its clock moves up to the greatest service in it, which is that of one that
-- went idle: what a member is charged while it has tickets is never negative in the end.
local function part(m, was_seated)
  m.touched = true
  if was_seated then m.seated = m.seated - 1 else m.waiting = m.waiting - 1 end
  if not is_idle(m) then return end
  m.of.active, m.of.top = m.of.active - 1, math.max(m.of.top, m.v)
  if m.of.active == 0 then m.of.clock = math.max(m.of.clock, m.of.top) end
end

local function charge_member(m, before, after, weight)
  m.touched = true
  m.v = math.min(MAX, m.v + served(after, weight) - served(before, weight))
end

-- The order ----------------------------------------------------------------------------------------------------------------------

local function put_in(mark)
  into[#into + 1] = 0
  into[#into + 1] = mark
end

local function mark_idle(m, keep)
  local moved = m.v ~= m.old_v
  if m.was_idle and (moved or not keep) then
    out[#out + 1] = idle_mark(m, m.old_v)
    m.of.idle = m.of.idle - 1
  end
  if keep and (moved or not m.was_idle) then
    put_in(idle_mark(m, m.v))
    m.of.idle = m.of.idle + 1
    m.of.grew = true
  end
  m.was_idle, m.touched, m.of.touched = keep, true, true
end

local function mark_waiting(m)
  local moved, waits = m.v ~= m.old_v or m.since ~= m.old_since, m.waiting > 0
  if m.was_waiting and (moved or not waits) then out[#out + 1] = waiting_mark(m, m.old_v, m.old_since) end
  if waits and (moved or not m.was_waiting) then put_in(waiting_mark(m, m.v, m.since)) end
  m.was_waiting = waits
end

local function mark_members(of_roots)
  for _, m in pairs(members) do
    if m.of.of_roots == of_roots then
      local idle = is_idle(m)
      local keep = idle and (m.v > floor_of(m.of) or m.inside.idle > 0)
      if keep or m.was_idle then mark_idle(m, keep) end
      if m.was_waiting or m.waiting > 0 then mark_waiting(m) end
      m.forgotten, m.old_v, m.old_since = idle and not keep, m.v, m.since
    end
  end
end

-- Brings the order up to what this call has changed: accounts first, for a root is remembered while one of its accounts is.
local function write_order()
  mark_members(nil)
  mark_members(true)
  if out[1] then redis.call('ZREM', KEYS[2], unpack(out)) end
  if into[1] then redis.call('ZADD', KEYS[2], unpack(into)) end
  if out[1] or into[1] then out, into = {}, {} end
end

-- What is no longer needed ---------------------------------------------------------------------------------------------------------

-- Forgets idle members of a group, up to a service; of a root its accounts first, whatever their own: what is remembered inside a root
-- lasts as long as the root.
local function forget(of, up_to)
  local prefix = 'i' .. of.under
  local marks = redis.call('ZRANGEBYLEX', KEYS[2], '[' .. prefix, '[' .. prefix .. wide(up_to) .. '\255', 'LIMIT', 0, FORGOTTEN_MAX)
  for _, mark in ipairs(marks) do
    local m = member(of, string.sub(mark, #prefix + 17))
    if of.of_roots and m.inside.idle > 0 then forget(m.inside, MAX) end
    if m.inside.idle == 0 then
      redis.call('ZREM', KEYS[2], mark)
      of.idle, of.touched, m.was_idle, m.forgotten = of.idle - 1, true, false, true
    end
  end
end

-- Counts a group from a higher number: its marks now, its members when they are next read; only differences matter.
local function rebase(of)
  for _, kind in ipairs({'i', 'w'}) do
    local prefix = kind .. of.under
    local marks = redis.call('ZRANGEBYLEX', KEYS[2], '[' .. prefix, '(' .. prefix .. '\255')
    for from = 1, #marks, MARKS_MAX do
      local old, new = {}, {}
      for n = from, math.min(#marks, from + MARKS_MAX - 1) do
        local v = tonumber(string.sub(marks[n], #prefix + 1, #prefix + 16))
        old[#old + 1] = marks[n]
        new[#new + 1] = 0
        new[#new + 1] = prefix .. wide(v - REBASE_BY) .. string.sub(marks[n], #prefix + 17)
      end
      redis.call('ZREM', KEYS[2], unpack(old))
      redis.call('ZADD', KEYS[2], unpack(new))
    end
  end
  of.clock, of.top, of.shifts, of.touched = of.clock - REBASE_BY, math.max(0, of.top - REBASE_BY), of.shifts + 1, true
  for _, m in pairs(members) do
    if m.of == of then m.touched, m.v, m.old_v = true, m.v - REBASE_BY, m.v - REBASE_BY end
  end
end

local function tidy(of)
  if of.grew and of.idle % FORGET_EVERY == 0 then forget(of, of.idle > IDLE_MAX and MAX or floor_of(of)) end
  while floor_of(of) > REBASE_ABOVE do rebase(of) end
end
