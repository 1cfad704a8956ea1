-- Tickets and seats: the steps of `proxy/policy/fair_share.py`.
-- Invariants: used <= seats, but for seats that were taken back or taken away; a seat that is free while somebody waits who may have it
-- is given away in the same step. An ended ticket is remembered for a lease, so that whatever comes late finds it ended.

local WAITING, SEATED, ENDED = 0, 1, 2
local OVERDUE_PER_STEP, OVERDUE_PER_BEAT, GIVEN_MAX, TOLD_MAX = 8, 64, 100, 100
local TIDY_EVERY, TIDY_MAX = 16, 64

local function new_ticket(name, class, root, account, estimate, priority, channel)
  local t = {
    name = name, state = WAITING, class = class, root = root, account = account, estimate = estimate, priority = priority,
    number = pool.step, channel = channel, cumulative = 0, charged = 0, root_weight = 1, account_weight = 1, told = 0,
  }
  tickets[name] = t
  return t
end

-- A ticket as it stands; an ended one has its state, its cumulative cost and `dropped` alone; nil where nothing is known of it.
local function read_ticket(name, packed)
  if not packed then return nil end
  local t, _ = {name = name}
  t.state = cmsgpack.unpack(packed)
  if t.state == ENDED then
    _, t.till, t.cumulative, t.dropped = cmsgpack.unpack(packed)
    return t.till > now and t or nil
  end
  t.state, t.class, t.root, t.account, t.estimate, t.priority, t.number, t.channel, t.cumulative, t.charged, t.root_weight,
  t.account_weight, t.told = cmsgpack.unpack(packed)
  tickets[name] = t
  return t
end

local function ticket(name)
  return tickets[name] or read_ticket(name, redis.call('HGET', KEYS[1], ':' .. name))
end

local function packed_ticket(t)
  if t.state == ENDED then return cmsgpack.pack(ENDED, t.till, t.cumulative, t.dropped) end
  return cmsgpack.pack(
    t.state, t.class, t.root, t.account, t.estimate, t.priority, t.number, t.channel, t.cumulative, t.charged, t.root_weight,
    t.account_weight, t.told)
end

local function root_of(t) return member(pool[t.class], t.root) end
local function account_of(t) return member(root_of(t).inside, t.account) end

-- An account's own queue: by priority, then first in, first out.
local function queue_of(account) return 'q' .. account.field .. ' ' end
local function queue_mark(t) return queue_of(account_of(t)) .. string.format('%03d', 500 - t.priority) .. wide(t.number) .. t.name end
local function spare_mark(t) return 'y' .. wide(t.number) .. t.name end

local function lease(t)
  redis.call('ZADD', KEYS[3], now + lease_ms, t.name)
  pool.due = math.min(pool.due, now + lease_ms)
end

-- The parts of a step --------------------------------------------------------------------------------------------------------------

local function wait(t, root_weight, account_weight)
  local account = account_of(t)
  join(root_of(t), root_weight, t.number)
  join(account, account_weight, t.number)
  if account.waiting == 1 then pool.callers = pool.callers + 1 end
  local count = t.class == '' and 'waiting' or 'spare_waiting'
  pool[count] = pool[count] + 1
end

local function wait_no_more(t)
  if account_of(t).waiting == 0 then pool.callers = pool.callers - 1 end
  local count = t.class == '' and 'waiting' or 'spare_waiting'
  pool[count] = pool[count] - 1
  if t.queued then out[#out + 1] = t.queued end
end

-- Corrects what a seated ticket's members are charged for it; never to nothing, or its account would never move back in the order.
local function charge(t, spent)
  spent = math.max(1, spent)
  charge_member(root_of(t), t.charged, spent, t.root_weight)
  charge_member(account_of(t), t.charged, spent, t.account_weight)
  t.charged = spent
end

-- A waiting ticket takes a seat and is charged its estimate at once; `paid` is what it was charged before.
local function seat(t, paid)
  local root, account = root_of(t), account_of(t)
  pool.step = pool.step + 1
  sit(root, pool.step)
  sit(account, pool.step)
  wait_no_more(t)
  t.state, t.number, t.root_weight, t.account_weight, t.charged = SEATED, pool.step, root.weight, account.weight, paid
  charge(t, math.max(t.estimate, t.cumulative))
  pool.used = pool.used + 1
  if t.class == '+' then
    pool.spare_used = pool.spare_used + 1
    put_in(spare_mark(t))
  end
end

-- The same for one whose request runs already, whatever the number of seats.
local function seat_running(t, paid, spent)
  t.cumulative = math.max(paid, spent)
  pool.served = math.min(MAX, pool.served + t.cumulative - paid)
  seat(t, paid)
end

-- Totals only grow: a report that was overtaken by a later one changes nothing.
local function report(t, spent)
  if t.state ~= SEATED or spent <= t.cumulative then return end
  pool.served = math.min(MAX, pool.served + spent - t.cumulative)
  t.cumulative = spent
end

-- Remembers a ticket as ended; how many are remembered.
local function remember(name, cumulative, dropped)
  tickets[name] = {name = name, state = ENDED, till = now + lease_ms, cumulative = cumulative, dropped = dropped}
  return redis.call('RPUSH', KEYS[4], wide(now + lease_ms) .. name)
end

local function forget_ended()
  for _, mark in ipairs(redis.call('LRANGE', KEYS[4], 0, TIDY_MAX - 1)) do
    local till, name = tonumber(string.sub(mark, 1, 16)), string.sub(mark, 17)
    if till > now then return end
    redis.call('LPOP', KEYS[4])
    local packed = not tickets[name] and redis.call('HGET', KEYS[1], ':' .. name)
    -- It may have been taken back meanwhile, or have ended again.
    if packed and cmsgpack.unpack(packed) == ENDED and not read_ticket(name, packed) then gone[#gone + 1] = ':' .. name end
  end
end

local function finish(t, dropped)
  local was_seated = t.state == SEATED
  if was_seated then charge(t, t.cumulative) else t.queued = queue_mark(t) end
  part(account_of(t), was_seated)
  part(root_of(t), was_seated)
  if was_seated then
    pool.used = pool.used - 1
    if t.class == '+' then pool.spare_used = pool.spare_used - 1 end
    if t.told == 1 then
      pool.told = pool.told - 1
    elseif t.class == '+' then
      write_order() -- its mark may have come in this very step
      out[#out + 1] = spare_mark(t)
    end
  else
    wait_no_more(t)
  end
  if remember(t.name, t.cumulative, dropped) % TIDY_EVERY == 0 then forget_ended() end
end

local function drop_overdue(most)
  local names = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, most)
  for _, name in ipairs(names) do
    local t = ticket(name)
    if t then finish(t, 1) end
  end
  if names[1] then redis.call('ZREM', KEYS[3], unpack(names)) end
  pool.due = tonumber(redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]) or MAX
end

-- What others will be served, at these weights, before it is the turn of a root and its account.
local function lag_of(root, account)
  local lag = 0
  for _, m in ipairs({root, account}) do
    local least = first('w' .. m.of.under)
    if least then lag = lag + math.max(0, math.floor((m.v - tonumber(string.sub(least, 1, 16))) / SCALE * m.weight)) end
  end
  return math.min(MAX, lag)
end

-- None while it drains, nor while those who may hold one have not been heard.
local function seats_given()
  return (pool.draining == 1 or now < pool.opens) and 0 or pool.seats
end

local function next_ticket()
  local class = pool.waiting > 0 and '' or '+'
  local root = member(pool[class], string.sub(first('w' .. pool[class].under), 33))
  local account = member(root.inside, string.sub(first('w' .. root.inside.under), 33))
  local mark = first(queue_of(account))
  local t = ticket(string.sub(mark, 20))
  t.queued = queue_of(account) .. mark
  return t
end

-- Gives free seats away, and says so to the workers; the one that asks hears it in the answer.
local function give_away(asks)
  local given = 0
  while pool.used < seats_given() and pool.waiting + pool.spare_waiting > 0 and given < GIVEN_MAX do
    write_order()
    local t = next_ticket()
    seat(t, 0)
    if t.name ~= asks then redis.call('PUBLISH', t.channel, string.match(KEYS[1], '{pool:(.*)}') .. ' ' .. t.name) end
    given = given + 1
  end
end

-- Every step begins so, once the pool is read, and ends with `commit`.
local function begin_step(overdue_most)
  if pool.due <= now then drop_overdue(overdue_most or OVERDUE_PER_STEP) end
  give_away()
end

-- Whether tickets may be overdue, or seats could be given away.
local function is_due()
  return pool.due <= now or (pool.used < seats_given() and pool.waiting + pool.spare_waiting > 0)
end

-- As many spare tickets are told to stop as tickets with a budget wait; those seated last first, for the least is lost with them.
local function tell_spare()
  for _ = 1, TOLD_MAX do
    if pool.told >= pool.waiting or pool.told >= pool.spare_used then return end
    write_order()
    local mark = redis.call('ZREVRANGEBYLEX', KEYS[2], '(y\255', '[y', 'LIMIT', 0, 1)[1]
    ticket(string.sub(mark, 18)).told = 1
    pool.told, out[#out + 1] = pool.told + 1, mark
  end
end

-- One read of all that a verb on one ticket (ARGV 3, and 5 to 7: see `leave`) may need; the ticket, if there is a pool that knows it.
local function read_step()
  local name, class, root, account = A[3], A[5], A[6], A[7]
  local rows = redis.call('HMGET', KEYS[1], '', ':' .. name, class .. '/' .. root, class .. root .. '/' .. account)
  if not rows[1] then return nil end
  read_pool(rows[1])
  if rows[3] then
    local of = read_member(pool[class], root, rows[3]).inside
    if rows[4] then read_member(of, account, rows[4]) end
  end
  begin_step()
  return tickets[name] or read_ticket(name, rows[2])
end

local LETTERS = {SEATED = 'S', YIELDING = 'Y', WAITING = 'W', GONE = 'G'}

local function place(t)
  if not t or t.state == ENDED then return 'GONE' end
  if t.state == WAITING then return 'WAITING' end
  return t.told == 1 and 'YIELDING' or 'SEATED'
end

local function commit()
  tell_spare()
  write_order()
  tidy(pool[''])
  tidy(pool['+'])
  for _, m in pairs(members) do
    if m.of.of_roots then tidy(m.inside) end
  end
  local row = {'', packed_pool()}
  for name, t in pairs(tickets) do
    row[#row + 1] = ':' .. name
    row[#row + 1] = packed_ticket(t)
  end
  for field, m in pairs(members) do
    if m.forgotten then
      if m.known then gone[#gone + 1] = field end
    elseif m.touched or m.inside.touched then
      row[#row + 1] = field
      row[#row + 1] = packed_member(m)
    end
  end
  -- In this order: what was forgotten in this step may have come again in it.
  if gone[1] then redis.call('HDEL', KEYS[1], unpack(gone)) end
  redis.call('HSET', KEYS[1], unpack(row))
end
