-- What every verb on a pool shares: three files, `pool_prelude` first. The rule is that of `proxy/policy/shares.py` and `fair_share.py`,
-- which say why; here it stands once more, so that pick, charge and seat are one atomic step.
--
-- KEYS  1 records, a hash: '' the pool; '/root' and 'root/account' what each was served (spare ones behind '+'); ':ticket' a ticket
--       2 order, a sorted set by name alone: 'w' members that wait, 'q' their tickets, 'i' idle members, 'y' spare tickets with a seat
--       3 leases, a sorted set: tickets by their deadline   4 ended, a list: when to forget a ticket, and which
-- ARGV  1 how long a lease lasts, ms   2 the time, in simulations alone; else '' for the server's   then what each verb says of itself
--       Amounts are nanocredits, times milliseconds since 1970, all whole numbers below 2^53.
-- A verb costs what it calls: so there is one read and one write for all records and one for the order, and none where nobody waits.

local MAX = 9007199254740991
local SCALE, COST_MAX = 1000, 2 ^ 40
local REBASE_ABOVE, REBASE_BY = 2 ^ 50, 2 ^ 49

-- Of the call that runs now.
local KEYS, A, now, lease_ms
local pool
local members -- the roots and accounts that this call has met, by field
local tickets -- and the tickets, by name
local gone -- the fields that nobody needs any more
local out, into -- marks that leave the order and marks that come into it

local function demand(holds, what)
  if not holds then error('ARGUMENT ' .. what, 0) end
end

-- An argument that is a whole number.
local function number(n, least, most)
  local value = tonumber(A[n])
  demand(value and value % 1 == 0 and value >= (least or 0) and value <= (most or MAX), n)
  return value
end

local function cost(n)
  return math.min(number(n), COST_MAX)
end

-- A number such that names order as numbers do. Only of members without a mark is the service ever below 0.
local function wide(n)
  return string.format('%016d', math.max(0, n))
end

local function begin(keys, argv)
  KEYS, A, pool, members, tickets, gone, out, into = keys, argv, nil, {}, {}, {}, {}, {}
  now = tonumber(A[2])
  if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  lease_ms = number(1, 1)
end

-- The pool -----------------------------------------------------------------------------------------------------------------------
-- Its roots are a group, the accounts of a root are one; spare tickets have groups of their own. clock: the greatest service at which a
-- member was picked. top: the greatest at which one went idle. shifts: how often REBASE_BY was taken off.

local function group(under, clock, top, active, idle, shifts)
  return {under = under, clock = clock or 0, top = top or 0, active = active or 0, idle = idle or 0, shifts = shifts or 0}
end

-- A pool that nobody knows gives no seat for a while: those who had one before the server was lost say so first.
local function new_pool(seats, memory, learning_ms)
  pool = {
    seats = seats, used = 0, waiting = 0, callers = 0, spare_used = 0, spare_waiting = 0, told = 0, step = 0, due = MAX,
    opens = now + learning_ms, draining = 0, memory = memory, served = 0, [''] = group('/'), ['+'] = group('+/'),
  }
  pool[''].of_roots, pool['+'].of_roots = true, true
end

local function read_pool(packed)
  local p, c, t, a, i, s, c2, t2, a2, i2, s2 = {}
  p.seats, p.used, p.waiting, p.callers, p.spare_used, p.spare_waiting, p.told, p.step, p.due, p.opens, p.draining, p.memory, p.served,
  c, t, a, i, s, c2, t2, a2, i2, s2 = cmsgpack.unpack(packed)
  p[''], p['+'] = group('/', c, t, a, i, s), group('+/', c2, t2, a2, i2, s2)
  p[''].of_roots, p['+'].of_roots = true, true
  p.step = p.step + 1
  pool = p
end

local function packed_pool()
  local p, g, s = pool, pool[''], pool['+']
  local packed = cmsgpack.pack(
    p.seats, p.used, p.waiting, p.callers, p.spare_used, p.spare_waiting, p.told, p.step, p.due, p.opens, p.draining, p.memory, p.served,
    g.clock, g.top, g.active, g.idle, g.shifts)
  if s.clock == 0 and s.active == 0 and s.shifts == 0 then return packed end -- most pools never have a spare ticket
  return packed .. cmsgpack.pack(s.clock, s.top, s.active, s.idle, s.shifts)
end

-- Members ------------------------------------------------------------------------------------------------------------------------

local function floor_of(of)
  return math.max(0, of.clock - pool.memory)
end

local function is_idle(member)
  return member.waiting + member.seated == 0
end

-- A root or an account as it stands, or, where it is not remembered, as it begins.
local function read_member(of, name, packed)
  local field = of.under .. name
  local m, under = {of = of, name = name, field = field}, of.of_roots and string.sub(of.under, 1, -2) .. name .. '/'
  if packed then
    local v, shifts, clock, top, active, idle, own_shifts
    v, shifts, m.weight, m.waiting, m.seated, m.since, clock, top, active, idle, own_shifts = cmsgpack.unpack(packed)
    m.v = v - (of.shifts - shifts) * REBASE_BY
    m.inside = group(under, clock, top, active, idle, own_shifts)
    m.known, m.was_idle, m.was_waiting, m.old_v, m.old_since = true, is_idle(m), m.waiting > 0, m.v, m.since
  else
    m.v, m.weight, m.waiting, m.seated, m.since, m.inside = floor_of(of), 1, 0, 0, 0, group(under)
  end
  members[field] = m
  return m
end

local function member(of, name)
  return members[of.under .. name] or read_member(of, name, redis.call('HGET', KEYS[1], of.under .. name))
end

local function packed_member(m)
  local g = m.inside
  if not m.of.of_roots then return cmsgpack.pack(m.v, m.of.shifts, m.weight, m.waiting, m.seated, m.since) end
  return cmsgpack.pack(m.v, m.of.shifts, m.weight, m.waiting, m.seated, m.since, g.clock, g.top, g.active, g.idle, g.shifts)
end

local function idle_mark(m, v) return 'i' .. m.of.under .. wide(v) .. m.name end
local function waiting_mark(m, v, since) return 'w' .. m.of.under .. wide(v) .. wide(since) .. m.name end

-- The first of what begins so in the order, without that beginning.
local function first(prefix)
  local found = redis.call('ZRANGEBYLEX', KEYS[2], '[' .. prefix, '(' .. prefix .. '\255', 'LIMIT', 0, 1)[1]
  return found and string.sub(found, #prefix + 1)
end
