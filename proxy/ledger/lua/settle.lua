-- Ends a hold at its exact cost and returns the rest. What the cost has beyond the hold is taken from what the path has left, and
-- what it has not is booked as overrun.
-- ARGV  A.id, A.spent, A.overrun, A.memo, A.asked (a digest of spent and overrun), A.keep_ms
-- Answer {OK, now, state, spent, overrun} | {CONFLICT, now} | {UNKNOWN, ...} | {STALE_WINDOW, now}
-- Invariant: a hold ends once; one that expired is settled once more, by the difference. An unknown hold ended long ago.

demand(type(A.id) == 'string' and whole(A.spent) and whole(A.overrun) and type(A.asked) == 'string' and whole(A.keep_ms, 1), 'settle')
local hold = read_hold()
if not hold then return {'OK', now, 'settled', 0, 0} end
if hold.state == 'voided' or (hold.state == 'settled' and hold.asked ~= A.asked) then return {'CONFLICT', now} end
if hold.state == 'settled' then return {'OK', now, 'settled', hold.spent, hold.overrun} end
-- Only what takes more must go by the latest limits; an end that does not must land whatever has changed.
local takes = A.spent > (hold.state == 'expired' and hold.spent or hold.amount)
if not takes then
  for _, level in ipairs(A.levels) do level[2] = -1 end
end
local no = open_path(false) or (takes and stale_window())
if no then return no end
if hold.state == 'expired' then
  hold.amount, hold.parts = hold.spent, {}
  for i = 1, #accounts do hold.parts[i] = {{hold.spent, 'f'}} end
end
return end_hold(hold, 'settled', A.spent, A.overrun, A.memo)
