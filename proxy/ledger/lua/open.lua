-- Opens an account: the last of the path.
-- ARGV  A.id, A.digest, A.keep_ms, A.plan, A.weight (0: the plan's), A.labels (JSON), A.limits (JSON; '' for the plan's)
-- Answer {OK, now} | {EXISTS, now} (with other settings) | {CONFLICT, now} | {UNKNOWN, now, level} for a missing parent
-- Invariant: an account is opened once and never vanishes.

local before = repeated()
if before then return before end
demand(type(A.plan) == 'string' and whole(A.weight) and type(A.labels) == 'string' and type(A.limits) == 'string', 'open')
for i = 1, #A.levels - 1 do
  local account = open_level(i)
  if not account.status then return {'UNKNOWN', now, i - 1} end
  if account.status == 'closed' then return {'SUSPENDED', now, i - 1, 'closed'} end
end
local key = KEYS[3 * #A.levels + 1]
local there = redis.call('HMGET', key, 'status', 'plan', 'weight', 'labels', 'limits')
if there[1] then
  if there[2] == A.plan and there[3] == int(A.weight) and there[4] == A.labels and there[5] == A.limits then return {'OK', now} end
  return {'EXISTS', now}
end
redis.call('HSET', key, 'version', '1', 'status', 'active', 'plan', A.plan, 'weight', int(A.weight), 'labels', A.labels, 'limits', A.limits,
  'created', int(now))
return remember()
