-- Ends a hold and returns all that it did not spend.
-- ARGV  A.id, A.keep_ms
-- Answer {OK, now, state, spent, overrun}: of the end that it had before, where it had one | {UNKNOWN, ...}
-- Invariant: a hold ends once.

demand(type(A.id) == 'string' and whole(A.keep_ms, 1), 'void')
local hold = read_hold()
if not hold then return {'OK', now, 'voided', 0, 0} end
if hold.state ~= 'open' then return {'OK', now, hold.state, hold.spent, hold.overrun} end
local no = open_path(false)
if no then return no end
return end_hold(hold, 'voided', hold.spent, 0)
