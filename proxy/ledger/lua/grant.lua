-- Adds credits once, to the last account of the path.
-- ARGV  3 the grant's id   6 credits, priority, effective (0: now), expires (2^53-1: never), reason, grants_max
--         late: it was on its way, and is granted even if it has expired meanwhile
--         into: with what begins the ids of grants one of which takes it up where it expires at the same time; else it is one of them
-- Answer {OK, now} | {CONFLICT, now} | {TOO_MANY, now} | {TOO_MUCH, now} | {PAST, now} | {UNKNOWN, ...}
-- Invariant: a grant's credits = spent + held + left + expired + given + revoked.

local before, asked = repeated()
if before then return before end
demand(whole(asked.credits, 1) and whole(asked.effective) and whole(asked.expires) and whole(asked.grants_max, 1), 'amounts')
demand(type(asked.priority) == 'number' and asked.priority % 1 == 0 and math.abs(asked.priority) <= 1000000, 'priority')
demand(type(asked.reason) == 'string', 'reason')
if not asked.late and (asked.expires <= now or asked.expires <= asked.effective) then return {'PAST', now} end
local no = open_path(false)
if no then return no end
local account = narrow()
local grants, id, there = load_grants(account), A[3], nil
if asked.into then
  local begins = asked.into .. ':'
  id = begins .. id
  for _, g in pairs(grants) do
    if string.sub(g.id, 1, #begins) == begins and g.state == 'live' and g.expires == asked.expires then there = g end
  end
end
if grants[id] then return {'CONFLICT', now} end
if tonumber(redis.call('HGET', account_key(account.level), 'granted') or 0) + asked.credits > MAX then return {'TOO_MUCH', now} end

local records, finished, dropped = 0, {}, {}
for _ in pairs(grants) do records = records + 1 end
if there then
  there.credits, there.left = there.credits + asked.credits, there.left + asked.credits
else
  if records >= asked.grants_max then
    expire_grants(account)
    for _, g in pairs(grants) do
      if g.left == 0 and g.held == 0 then finished[#finished + 1] = g end
    end
    if #finished == 0 then return {'TOO_MANY', now} end
    table.sort(finished, function(a, b) if a.created ~= b.created then return a.created < b.created end return a.id < b.id end)
    for n = 1, records + 1 - asked.grants_max do dropped[n] = finished[n] and 'g:' .. finished[n].id end
  end
  there = {
    id = id, priority = asked.priority, effective = asked.effective > 0 and asked.effective or now, expires = asked.expires,
    created = now, credits = asked.credits, spent = 0, held = 0, left = asked.credits, expired = 0, given = 0, revoked = 0, state = 'live', reason = asked.reason,
  }
  grants[id], records = there, records + 1
end
change_grant(account, there)
add(account, 'granted', asked.credits)
post(account, 'g:' .. there.id, 'wl', asked.credits)
if asked.late then expire_grants(account) end
account[GRANTS], account.moved = records - #dropped, true
commit('grant', asked.credits, asked.reason)
-- Dropped only now: `commit` has written how they ended.
if #dropped > 0 then redis.call('HDEL', account_key(account.level), unpack(dropped)) end
return remember()
