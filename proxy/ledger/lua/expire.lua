-- Ends a hold whose time is over: what was debited stays spent, the rest is returned.
-- ARGV  4 how long the end is remembered (ms), 0
-- Answer {OK, now, state, spent, overrun} | {ALIVE, now, deadline} | {UNKNOWN, ...}
-- Invariant: only the server's clock ends a hold, and only once.

local keep_ms = numbers('<dd')
local hold = read_own_hold()
if not hold then
  redis.call('ZREM', root_key(), A[3])
  return {'OK', now, 'expired', 0, 0}
end
if hold[STATE] ~= OPEN then
  redis.call('ZREM', root_key(), A[3])
  return ended(hold)
end
if now < hold[DEADLINE] then return {'ALIVE', now, hold[DEADLINE]} end
local no = open_path(false)
if no then return no end
return end_hold(hold, EXPIRED, hold[H_SPENT], 0, keep_ms)
