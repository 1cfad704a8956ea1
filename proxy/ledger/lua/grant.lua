-- Adds credits once, to the last account of the path; what comes back also to accounts above it.
-- ARGV  3 the grant's id   6 credits, priority, effective (0: now), expires (2^53-1: never), reason, grants_max
--         late: it was on its way, and is granted even if it has expired meanwhile
--         into: with what begins the ids of grants one of which takes it up where it expires at the same time; else it is one of them
--         from: the number of the first level that gets it, where that is not the last; of those above the last, each that has limits
-- Answer {OK, now} | {CONFLICT, now} | {TOO_MANY, now} | {TOO_MUCH, now} | {PAST, now} | {UNKNOWN, ...} | {STALE_...}
-- Invariant: a grant's credits = spent + held + left + expired + given + revoked.

local before, asked = repeated()
if before then return before end
demand(whole(asked.credits, 1) and whole(asked.effective) and whole(asked.expires) and whole(asked.grants_max, 1), 'amounts')
demand(type(asked.priority) == 'number' and asked.priority % 1 == 0 and math.abs(asked.priority) <= 1000000, 'priority')
demand(type(asked.reason) == 'string', 'reason')
demand(not asked.from or whole(asked.from, 1) and asked.from <= #path, 'from')
if not asked.late and (asked.expires <= now or asked.expires <= asked.effective) then return {'PAST', now} end
local no = open_path(asked.from ~= nil)
if no then return no end
narrow(asked.from)

-- The grant that takes it up, new or there, how many are listed, and which of them make room; or nil, and why there is none.
local function place_in(account)
  local grants, id, there = load_grants(account), A[3], nil
  if asked.into then
    local begins = asked.into .. ':'
    id = begins .. id
    for _, g in pairs(grants) do
      if string.sub(g.id, 1, #begins) == begins and g.state == 'live' and g.expires == asked.expires then there = g end
    end
  end
  if grants[id] then return nil, 'CONFLICT' end
  if tonumber(redis.call('HGET', account_key(account.level), 'granted') or 0) + asked.credits > MAX then return nil, 'TOO_MUCH' end
  local records, finished, dropped = 0, {}, {}
  for _ in pairs(grants) do records = records + 1 end
  if there then return there, records, dropped end
  if records >= asked.grants_max then
    expire_grants(account)
    for _, g in pairs(grants) do
      if g.left == 0 and g.held == 0 then finished[#finished + 1] = g end
    end
    if #finished == 0 then return nil, 'TOO_MANY' end
    table.sort(finished, function(a, b) if a.created ~= b.created then return a.created < b.created end return a.id < b.id end)
    for n = 1, records + 1 - asked.grants_max do dropped[n] = finished[n] and 'g:' .. finished[n].id end
  end
  return {
    id = id, priority = asked.priority, effective = asked.effective > 0 and asked.effective or now, expires = asked.expires,
    created = now, credits = 0, spent = 0, held = 0, left = 0, expired = 0, given = 0, revoked = 0, state = 'live', reason = asked.reason,
  }, records + 1, dropped
end

local dropped = {}
for i, account in ipairs(accounts) do
  if i == #accounts or #account.level.limits > 0 then
    local grant, records, makes_room = place_in(account)
    if not grant then return {records, now} end
    grant.credits, grant.left = grant.credits + asked.credits, grant.left + asked.credits
    load_grants(account)[grant.id] = grant
    change_grant(account, grant)
    add(account, 'granted', asked.credits)
    post(account, 'g:' .. grant.id, 'wl', asked.credits)
    if asked.late then expire_grants(account) end
    account[GRANTS], account.moved = records - #makes_room, true
    dropped[i] = makes_room
  end
end
commit('grant', asked.credits, asked.reason)
-- Dropped only now: `commit` has written how they ended.
for i, account in ipairs(accounts) do
  if dropped[i] and #dropped[i] > 0 then redis.call('HDEL', account_key(account.level), unpack(dropped[i])) end
end
return remember()
