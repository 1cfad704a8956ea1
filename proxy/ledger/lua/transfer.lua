-- Takes credits from what the last account of the path has left at its own level, and notes them as in transit.
-- ARGV  A.id, A.digest, A.keep_ms, A.credits, A.reason, A.target (the receiving path, joined by spaces)
-- Answer {OK, now, target, reason, credits, expires, credits, expires...} as strings: one grant for each pair
--        | {CONFLICT, now} | {INSUFFICIENT, now, level, limit, available, held, capacity, resets, 0} | {SUSPENDED, ...} | {STALE_...}
-- Invariant: what leaves here stands in the outbox until the receiver has it; credits keep the expiry that they had.

local before = repeated()
if before then return before end
demand(whole(A.credits, 1) and type(A.target) == 'string' and type(A.reason) == 'string', 'transfer')
local no = open_path(false) or stale_window()
if no then return no end
local level = #accounts - 1
local account = narrow()
if account.status ~= 'active' then return {'SUSPENDED', now, level, account.status} end

local function refuse(free)
  local answer = insufficient(account, free, 0)
  answer[3] = level
  return answer
end

-- An account without limits of its own has nothing but its grants to give.
local parts = {}
if #account.limits == 0 then
  local usable, left = usable_grants(account)
  if left < A.credits then return refuse(left) end
  expire_grants(account)
  local paid = 0
  add(account, 'held', A.credits)
  for _, g in ipairs(usable) do
    local piece = math.min(g.left, A.credits - paid)
    if piece > 0 then
      g.left, g.held, paid = g.left - piece, g.held + piece, paid + piece
      change_grant(account, g)
      post(account, 'g:' .. g.id, 'left', 'held', piece)
      append(parts, piece, 'g:' .. g.id)
    end
  end
else
  local free = available(account, MAX)
  if free < A.credits then return refuse(free) end
  take(account, A.credits, parts)
end

local order, by_expiry = {}, {}
for _, part in ipairs(parts) do
  local expires = MAX
  if string.sub(part[2], 1, 1) == 'g' then
    expires = account.grants[string.sub(part[2], 3)].expires
  else
    each_window(account, part[2], function(w) if w.resets > 0 then expires = math.min(expires, w.resets) end end)
  end
  if not by_expiry[expires] then
    by_expiry[expires] = 0
    order[#order + 1] = expires
  end
  by_expiry[expires] = by_expiry[expires] + part[1]
  use(account, part[1], part[2], 'given')
end
local answer = {A.target, A.reason}
for _, expires in ipairs(order) do
  answer[#answer + 1] = int(by_expiry[expires])
  answer[#answer + 1] = int(expires)
end
commit('transfer', A.id, A.credits, A.reason)
redis.call('HSET', KEYS[2], A.id, cjson.encode(answer))
return remember(unpack(answer))
