-- Reserves up to `want`, at least `least`, at every level of the path, in one step.
-- ARGV  4 want, least, how long it lives unless it is heard of again (ms)
-- Answer {OK, now, amount, tightest...} | {INSUFFICIENT, now, level, limit, available, held, capacity, resets, overdue}
--        | {SUSPENDED, now, level, status} | {UNKNOWN, now, level} | {STALE_ACCOUNT, now, level} | {STALE_WINDOW, now} | {CONFLICT, now}
-- Invariant: every level's held grows by the amount, or nothing changes; a repeat gives the first amount and changes nothing.

local want, least, ttl_ms = numbers('<ddd')
demand(least <= want, 'least')
local hold = read_hold()
if hold and (hold[PATH] ~= path.text or hold[WANT] ~= want or hold[LEAST] ~= least) then return {'CONFLICT', now} end
local no = open_path(true)
if no then return no end
if hold then return taken_and_left(hold[FIRST]) end
no = inactive()
if no then return no end

local parts = {nil, nil}
local amount, at, free = take_path(parts, want, least)
if not amount then return insufficient(at, free, redis.call('ZCOUNT', root_key(), '-inf', int(now))) end
keep_open('hold', amount, {OPEN, path.text, 0, amount, now, 0, want, least, amount, 0, 0, 0, parts}, ttl_ms)
return taken_and_left(amount)
