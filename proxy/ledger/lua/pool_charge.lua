-- Says what a running request has cost so far; above its estimate its members are charged more.
-- ARGV  3 the ticket   4 cumulative cost
-- Answer {SEATED | YIELDING | WAITING | GONE, now}
-- Invariant: the last report that was not below those before it counts.

local spent = cost(4)
local rows = redis.call('HMGET', KEYS[1], '', ':' .. A[3])
if not rows[1] then return {'GONE', now} end
read_pool(rows[1])
begin_step()
local t = tickets[A[3]] or read_ticket(A[3], rows[2])
if t and t.state == SEATED then
  report(t, spent)
  if t.cumulative > t.charged then charge(t, t.cumulative) end
end
commit()
return {place(t), now}
