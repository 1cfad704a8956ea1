-- Takes credits from what the last account of the path has left at its own level, and notes them as in transit.
-- ARGV  6 credits, reason, target (the receiving path, joined by spaces), into ('', or see grant), expires (the latest that they may last)
-- Answer {OK, now, target, reason, into, credits, expires, credits, expires...} as strings: one grant for each pair
--        | {CONFLICT, now} | {INSUFFICIENT, now, level, limit, available, held, capacity, resets, 0} | {SUSPENDED, ...} | {STALE_...}
-- Invariant: what leaves here stands in the outbox until the receiver has it; credits never last longer than they would have here. How
-- much was given on the present day (UTC) stands with the account: who gives away what it has does not lack it.

local before, asked = repeated()
if before then return before end
demand(whole(asked.credits, 1) and type(asked.target) == 'string' and type(asked.reason) == 'string', 'transfer')
demand(type(asked.into) == 'string' and whole(asked.expires), 'into')
local no = open_path(true)
if no then return no end
local account = narrow()
no = inactive()
if no then return no end

-- An account without limits of its own has nothing but its grants to give.
local parts = {}
if #account.current == 0 then
  local _, left = usable_grants(account)
  if left < asked.credits then return insufficient(account, left, 0) end
  expire_grants(account)
  account[HELD], account.moved = account[HELD] + asked.credits, true
  take_grants(account, asked.credits, parts, 1)
else
  local free = available(account, MAX)
  if free < asked.credits then return insufficient(account, free, 0) end
  take(account, asked.credits, parts, 1)
end

local order, by_expiry = {}, {}
for _, part in ipairs(parts[1]) do
  local expires = MAX
  if string.sub(part[2], 1, 1) == 'g' then
    expires = account.grants[string.sub(part[2], 3)].expires
  else
    for _, w in ipairs(windows_of(account, part[2])) do
      if w[RESETS] > 0 then expires = math.min(expires, w[RESETS]) end
    end
  end
  expires = math.min(expires, asked.expires)
  if not by_expiry[expires] then
    by_expiry[expires] = 0
    order[#order + 1] = expires
  end
  by_expiry[expires] = by_expiry[expires] + part[1]
  use(account, part[1], part[2], 'given')
end
local answer = {asked.target, asked.reason, asked.into}
for _, expires in ipairs(order) do
  answer[#answer + 1] = int(by_expiry[expires])
  answer[#answer + 1] = int(expires)
end
commit('transfer', asked.credits, asked.reason)
local key, today = account_key(account.level), int(math.floor(now / DAY_MS))
local gave = redis.call('HMGET', key, 'gave_on', 'gave')
redis.call('HSET', key, 'gave_on', today, 'gave', int((gave[1] == today and tonumber(gave[2]) or 0) + asked.credits))
redis.call('HSET', root_key(), A[3], cjson.encode(answer))
return remember(unpack(answer))
