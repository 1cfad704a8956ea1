-- Reserves up to `want`, at least `least`, and counts a request that begins, at every level of the path, in one step.
-- ARGV  4 want, least, how long it lives unless it is heard of again (ms)
-- Answer {OK, now, amount, tightest..., rate...} | {INSUFFICIENT, now, level, limit, available, held, capacity, resets, overdue}
--        | {TOO_MANY, now, level, which, how many, wait (ms), overdue}: which is 'running' or 'begun' (a minute)
--        | {SUSPENDED, now, level, status} | {UNKNOWN, now, level} | {STALE_ACCOUNT, now, level} | {STALE_WINDOW, now} | {CONFLICT, now}
-- Invariant: every level's held grows by the amount and its running requests by one, or nothing changes; a repeat gives the first amount
-- and changes nothing.

local want, least, ttl_ms = numbers('<ddd')
demand(least <= want, 'least')
local hold = read_hold()
if hold and (hold[PATH] ~= path.text or hold[WANT] ~= want or hold[LEAST] ~= least) then return {'CONFLICT', now} end
local no = open_path(true)
if no then return no end
if hold then return with_rate(taken_and_left(hold[FIRST])) end
no = inactive() or path.rated and too_many()
if no then return no end

local parts = {nil, nil}
local amount, at, free = take_path(parts, want, least)
if not amount then return insufficient(at, free, overdue()) end
count_begun()
keep_open('hold', amount, {OPEN, path.text, 0, amount, now, 0, want, least, amount, 0, 0, 0, parts}, ttl_ms)
return with_rate(taken_and_left(amount))
