-- Ends a hold and returns all that it did not spend.
-- ARGV  4 how long the end is remembered (ms), 0
-- Answer {OK, now, state, spent, overrun}: of the end that it had before, where it had one | {UNKNOWN, ...}
-- Invariant: a hold ends once.

local keep_ms = numbers('<dd')
local hold = read_own_hold()
if not hold then return {'OK', now, 'voided', 0, 0} end
if hold[STATE] ~= OPEN then return ended(hold) end
local no = open_path(false)
if no then return no end
return end_hold(hold, VOIDED, hold[H_SPENT], 0, keep_ms)
