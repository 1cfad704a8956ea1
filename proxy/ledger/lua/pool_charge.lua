-- Says what a running request has cost so far; above its estimate its members are charged more.
-- ARGV  3 the ticket   4 cumulative cost   5 to 7 '' | '+', root, account, as its worker knows them; '' where it does not
-- Answer {SEATED | YIELDING | WAITING | GONE, now}
-- Invariant: the last report that was not below those before it counts.

local spent = cost(4)
local t = read_step()
if not pool then return {'GONE', now} end
if t and t.state == SEATED then
  report(t, spent)
  if t.cumulative > t.charged then charge(t, t.cumulative) end
end
commit()
return {place(t), now}
