-- Reserves up to `want`, at least `least`, at every level of the path, in one step.
-- ARGV  A.id, A.want, A.least, A.ttl_ms
-- Answer {OK, now, amount, tightest...} | {INSUFFICIENT, now, level, limit, available, held, capacity, resets, overdue}
--        | {SUSPENDED, now, level, status} | {UNKNOWN, now, level} | {STALE_ACCOUNT, now, level} | {STALE_WINDOW, now} | {CONFLICT, now}
-- Invariant: every level's held grows by the amount, or nothing changes; a repeat gives the first amount and changes nothing.

demand(type(A.id) == 'string' and whole(A.want) and whole(A.least) and A.least <= A.want and whole(A.ttl_ms, 1), 'hold')
local ids = {}
for i, level in ipairs(A.levels) do ids[i] = level[1] end
local path = table.concat(ids, ' ')
local asked = path .. ' ' .. int(A.want) .. ' ' .. int(A.least)

local hold = read_hold()
if hold and hold.asked ~= asked then return {'CONFLICT', now} end
local no = open_path(not hold) or stale_window()
if no then return no end
if hold then return {'OK', now, hold.first, unpack(tightest())} end

local parts = {}
local overdue = redis.call('ZCOUNT', KEYS[2], '-inf', int(now))
local amount, at, free = take_path(parts, A.want, A.least)
if not amount then return insufficient(at, free, overdue) end
commit('hold', A.id, amount)
redis.call('HSET', KEYS[1], 'state', 'open', 'path', path, 'asked', asked, 'first', int(amount), 'amount', int(amount), 'spent', '0',
  'created', int(now), 'deadline', int(now + A.ttl_ms), 'parts', cmsgpack.pack(parts))
redis.call('ZADD', KEYS[2], int(now + A.ttl_ms), A.id)
return {'OK', now, amount, unpack(tightest())}
