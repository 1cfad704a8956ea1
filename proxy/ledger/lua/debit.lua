-- Records the cumulative total that a hold has spent so far, and keeps the hold alive.
-- ARGV  4 spent, how long it lives unless it is heard of again (ms)
-- Answer {OK, now, amount, spent} | {GONE, now} | {UNKNOWN, ...}
-- Invariant: spent never falls and never passes the hold's amount, so a repeat or a late arrival changes nothing.

local spent, ttl_ms = numbers('<dd')
local hold = read_own_hold()
if not hold or hold[STATE] ~= OPEN then return {'GONE', now} end
local no = open_path(false)
if no then return no end
local before = hold[H_SPENT]
hold[H_SPENT] = math.max(before, math.min(spent, hold[AMOUNT]))
walk(hold[PARTS], before, hold[H_SPENT], use)
keep_open('debit', hold[H_SPENT] - before, hold, ttl_ms)
return {'OK', now, hold[AMOUNT], hold[H_SPENT]}
