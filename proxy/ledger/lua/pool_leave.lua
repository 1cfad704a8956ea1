-- Ends a ticket: a seated one is charged what it did cost and its seat goes to the next; a waiting one owes nothing.
-- ARGV  3 the ticket   4 cumulative cost   5 to 7 '' | '+', root, account, as its worker knows them; '' where it does not
-- Answer {GONE, now}
-- Invariant: a ticket ends once. One that is not known is remembered as ended, so that an enter that it overtook finds it.

local spent = cost(4)
local t = read_step()
if not pool then return {'GONE', now} end
if not t then
  remember(A[3], 0, 0)
elseif t.state ~= ENDED then
  redis.call('ZREM', KEYS[3], A[3])
  report(t, spent)
  finish(t, 0)
  give_away()
elseif t.dropped == 1 then
  remember(A[3], t.cumulative, 0)
end
commit()
return {'GONE', now}
