-- Records the cumulative total that a hold has spent so far, and keeps the hold alive.
-- ARGV  A.id, A.spent, A.ttl_ms
-- Answer {OK, now, amount, spent} | {GONE, now}
-- Invariant: spent never falls and never passes the hold's amount, so a repeat or a late arrival changes nothing.

demand(type(A.id) == 'string' and whole(A.spent), 'debit')
local hold = read_hold()
if not hold or hold.state ~= 'open' then return {'GONE', now} end
local no = open_path(false)
if no then return no end
local spent = math.max(hold.spent, math.min(A.spent, hold.amount))
if spent > hold.spent then
  use_up(hold.parts, hold.spent, spent)
  commit('debit', A.id, spent - hold.spent)
  hold.spent = spent
end
keep_alive(hold)
return {'OK', now, hold.amount, spent}
