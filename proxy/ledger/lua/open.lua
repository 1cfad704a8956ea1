-- Opens an account: the last of the path.
-- ARGV  6 plan, weight (0: the plan's), labels (JSON), limits (JSON; '' for the plan's), kind ('account' or 'agent')
-- Answer {OK, now} | {EXISTS, now} (with other settings) | {CONFLICT, now} | {UNKNOWN, now, level} for a missing parent
-- Invariant: an account is opened once and never vanishes.

local before, asked = repeated()
if before then return before end
demand(type(asked.plan) == 'string' and whole(asked.weight) and type(asked.labels) == 'string' and type(asked.limits) == 'string', 'open')
demand(asked.kind == 'account' or asked.kind == 'agent', 'kind')
for i = 1, #path - 1 do
  local parent = open_level(path[i])
  if not parent then return {'UNKNOWN', now, i - 1} end
  if parent[STATUS] == CLOSED then return {'SUSPENDED', now, i - 1, 'closed'} end
end
local key = account_key(path[#path])
local there = redis.call('HMGET', key, 'status', 'plan', 'weight', 'labels', 'limits', 'kind')
if there[1] then
  if there[2] == asked.plan and there[3] == int(asked.weight) and there[4] == asked.labels and there[5] == asked.limits
    and (there[6] or 'account') == asked.kind then
    return {'OK', now}
  end
  return {'EXISTS', now}
end
redis.call('HSET', key, 'version', '1', 'status', 'active', 'plan', asked.plan, 'weight', int(asked.weight), 'labels', asked.labels,
  'limits', asked.limits, 'kind', asked.kind, 'created', int(now))
redis.call('SET', KEYS[#path + 1], struct.pack(HEAD, 0, 0, 1, ACTIVE, 0, 0, 0, 0))
return remember()
