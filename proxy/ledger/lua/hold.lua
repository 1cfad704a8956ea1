-- Reserves up to `want`, at least `least`, at every level of the path, in one step.
-- ARGV  A.id, A.want, A.least, A.ttl_ms
-- Answer {OK, now, amount, tightest...} | {INSUFFICIENT, now, level, limit, available, held, capacity, resets, overdue}
--        | {SUSPENDED, now, level, status} | {UNKNOWN, now, level} | {STALE_ACCOUNT, now, level} | {STALE_WINDOW, now} | {CONFLICT, now}
-- Invariant: every level's held grows by the amount, or nothing changes; a repeat gives the first amount and changes nothing.

demand(type(A.id) == 'string' and whole(A.want) and whole(A.least) and A.least <= A.want and whole(A.ttl_ms, 1), 'hold')
local ids = {}
for i, level in ipairs(A.levels) do ids[i] = level[1] end
local path = table.concat(ids, ' ')

local hold = read_hold()
if hold and (hold.path ~= path or hold.want ~= A.want or hold.least ~= A.least) then return {'CONFLICT', now} end
local no = open_path(not hold) or stale_window()
if no then return no end
if hold then return {'OK', now, hold.first, unpack(tightest())} end

local parts = {}
local amount, at, free = take_path(parts, A.want, A.least)
if not amount then return insufficient(at, free, redis.call('ZCOUNT', KEYS[2], '-inf', int(now))) end
commit('hold', A.id, amount)
keep_alive({
  state = 'open', path = path, amount = amount, spent = 0, created = now, want = A.want, least = A.least, first = amount,
  sequence = 0, wanted = 0, overrun = 0, asked = '', parts = parts,
})
return {'OK', now, amount, unpack(tightest())}
