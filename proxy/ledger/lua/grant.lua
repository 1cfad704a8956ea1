-- Adds credits once, to the last account of the path.
-- ARGV  A.id (the grant's), A.digest, A.keep_ms, A.credits, A.priority, A.effective (0: now), A.expires (2^53-1: never), A.reason, A.grants_max
--       A.late: it was on its way, and is granted even if it has expired meanwhile
-- Answer {OK, now} | {CONFLICT, now} | {TOO_MANY, now} | {TOO_MUCH, now} | {PAST, now} | {UNKNOWN, ...}
-- Invariant: a grant's credits = spent + held + left + expired + given + revoked.

local before = repeated()
if before then return before end
demand(whole(A.credits, 1) and whole(A.effective) and whole(A.expires) and whole(A.grants_max, 1) and type(A.reason) == 'string', 'grant')
demand(type(A.priority) == 'number' and A.priority == math.floor(A.priority) and math.abs(A.priority) <= 1000000, 'priority')
if not A.late and (A.expires <= now or A.expires <= A.effective) then return {'PAST', now} end
local no = open_path(false)
if no then return no end
local account = narrow()
local grants = load_grants(account)
if grants[A.id] then return {'CONFLICT', now} end
if tonumber(redis.call('HGET', account.key, 'granted') or 0) + A.credits > MAX then return {'TOO_MUCH', now} end

local records, finished = 0, {}
for _ in pairs(grants) do records = records + 1 end
if records >= A.grants_max then expire_grants(account) end
for _, g in pairs(grants) do
  if g.left == 0 and g.held == 0 then finished[#finished + 1] = g end
end
local dropped = {}
if records >= A.grants_max then
  if #finished == 0 then return {'TOO_MANY', now} end
  table.sort(finished, function(a, b) if a.created ~= b.created then return a.created < b.created end return a.id < b.id end)
  for n = 1, records + 1 - A.grants_max do dropped[n] = finished[n] and finished[n].id end
end

grants[A.id] = {
  id = A.id, priority = A.priority, effective = A.effective > 0 and A.effective or now, expires = A.expires, created = now, credits = A.credits, spent = 0, held = 0,
  left = A.credits, expired = 0, given = 0, revoked = 0, state = 'live', reason = A.reason,
}
change_grant(account, grants[A.id])
add(account, 'granted', A.credits)
post(account, 'g:' .. A.id, 'world', 'left', A.credits)
if A.late then expire_grants(account) end
commit('grant', A.id, A.credits, A.reason)
-- Dropped only now: `commit` has written how they ended.
if #dropped > 0 then redis.call('HDEL', account.grants_key, unpack(dropped)) end
redis.call('HSET', account.key, 'grants', int(records + 1 - #dropped))
return remember()
