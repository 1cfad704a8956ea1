-- Ends a hold at its exact cost and returns the rest. What the cost has beyond the hold is taken from what the path has left, and
-- what it has not is booked as overrun.
-- ARGV  4 spent, overrun that the caller knows of, how long the end is remembered (ms)   5 memo
-- Answer {OK, now, state, spent, overrun} | {CONFLICT, now} | {UNKNOWN, ...} | {STALE_ACCOUNT, ...} | {STALE_WINDOW, now}
-- Invariant: a hold ends once; one that expired is settled once more, by the difference. An unknown hold ended long ago.

local spent, overrun, keep_ms = numbers('<ddd')
local hold = read_own_hold()
if not hold then return {'OK', now, 'settled', 0, 0} end
local state = hold[STATE]
if state == VOIDED or (state == SETTLED and (hold[ASKED] ~= spent or hold[ASKED_OVERRUN] ~= overrun)) then return {'CONFLICT', now} end
if state == SETTLED then return ended(hold) end
if state == EXPIRED then hold[AMOUNT], hold[PARTS] = hold[H_SPENT], {} end
-- Only what takes more must go by the latest limits; an end that does not must land whatever has changed.
local no = open_path(spent > hold[AMOUNT])
if no then return no end
hold[ASKED], hold[ASKED_OVERRUN] = spent, overrun
return end_hold(hold, SETTLED, spent, overrun, keep_ms, A[5])
