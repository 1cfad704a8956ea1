-- Takes credits from what the last account of the path has left, alike at every level that they leave, and notes them as in transit.
-- ARGV  6 credits, reason, target (the receiving path, joined by spaces), into ('', or see grant), expires (the latest that they may last),
--         from (the number of the first level that they leave), arrive (that of the first level of the target that gets them),
--         comes_back: they were lent, and may leave who is closed
-- Answer {OK, now, target, arrive, reason, into, credits, expires, credits, expires...} as strings: one grant for each pair
--        | {CONFLICT, now} | {INSUFFICIENT, now, level, limit, available, held, capacity, resets, 0} | {SUSPENDED, ...} | {STALE_...}
-- Invariant: what leaves here stands in the outbox until the receiver has it; no level loses more than it could have spent, and credits
-- never last longer than they would have at any of them. How much was given on the present day (UTC) stands with the account: who gives
-- away what it has does not lack it.

local before, asked = repeated()
if before then return before end
demand(whole(asked.credits, 1) and type(asked.target) == 'string' and type(asked.reason) == 'string', 'transfer')
demand(type(asked.into) == 'string' and whole(asked.expires), 'into')
demand(whole(asked.from, 1) and asked.from <= #path and whole(asked.arrive, 1), 'levels')
local no = open_path(true)
if no then return no end
-- Where a level is closed nothing below it is spent any more, so what is owed goes back; who is suspended may be resumed, and keeps it.
local is_closed = false
for i = 1, #accounts do is_closed = is_closed or accounts[i][STATUS] == CLOSED end
local account = narrow(asked.from)
no = not (asked.comes_back and is_closed) and inactive()
if no then return no end

-- An account without limits of its own has nothing but its grants to give; above it such a level lets everything pass.
local last, parts = #accounts, {}
local only_grants = #account.current == 0
if only_grants then
  local _, granted = usable_grants(account)
  if granted < asked.credits then return insufficient(account, granted, 0) end
end
local free, at = path_available(asked.credits)
if free and free < asked.credits then return insufficient(at, free, 0) end
for i = 1, only_grants and last - 1 or last do take(accounts[i], asked.credits, parts, i) end
if only_grants then
  expire_grants(account)
  account[HELD], account.moved = account[HELD] + asked.credits, true
  take_grants(account, asked.credits, parts, last)
end

local function expiry_of(level, source)
  if source == 'f' then return MAX end
  if string.sub(source, 1, 1) == 'g' then return level.grants[string.sub(source, 3)].expires end
  local expires = MAX
  for _, w in ipairs(windows_of(level, source)) do
    if w[RESETS] > 0 then expires = math.min(expires, w[RESETS]) end
  end
  return expires
end

-- Every credit comes from one part of each level, those taken first together, and lasts as long as the first of these parts to end.
local gifts = {{asked.credits, asked.expires}}
for i = 1, last do
  local cut, n = {}, 1
  for _, part in ipairs(parts[i]) do
    local amount, expires = part[1], expiry_of(accounts[i], part[2])
    while amount > 0 do
      local piece = gifts[n]
      local given = math.min(piece[1], amount)
      cut[#cut + 1] = {given, math.min(piece[2], expires)}
      piece[1], amount = piece[1] - given, amount - given
      if piece[1] == 0 then n = n + 1 end
    end
    use(accounts[i], part[1], part[2], 'given')
  end
  gifts = cut
end
local order, by_expiry = {}, {}
for _, piece in ipairs(gifts) do
  if not by_expiry[piece[2]] then
    by_expiry[piece[2]] = 0
    order[#order + 1] = piece[2]
  end
  by_expiry[piece[2]] = by_expiry[piece[2]] + piece[1]
end
local answer = {asked.target, int(asked.arrive), asked.reason, asked.into}
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
