-- Ends a hold whose time is over: what was debited stays spent, the rest is returned.
-- ARGV  A.id, A.keep_ms
-- Answer {OK, now, state, spent, overrun} | {ALIVE, now, deadline} | {UNKNOWN, ...}
-- Invariant: only the server's clock ends a hold, and only once.

demand(type(A.id) == 'string' and whole(A.keep_ms, 1), 'expire')
local hold = read_hold()
if not hold or hold.state ~= 'open' then
  redis.call('ZREM', KEYS[2], A.id)
  return {'OK', now, hold and hold.state or 'expired', hold and hold.spent or 0, 0}
end
if now < hold.deadline then return {'ALIVE', now, hold.deadline} end
local no = open_path(false)
if no then return no end
return end_hold(hold, 'expired', hold.spent, 0)
