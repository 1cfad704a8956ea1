-- Gives what has expired in the last account of the path, and at every level that it leaves, to another account; notes it as in transit.
-- ARGV  6 target (the receiving path, joined by spaces), reason, into (see grant), expires (when it expires there), stale_ms,
--         from (the number of the first level that it leaves), arrive (that of the first level of the target that gets it)
-- Answer {OK, now, target, arrive, reason, into, credits, expires} as strings: as a transfer's; {OK, now} where there is nothing to give
--        | {CONFLICT, now} | {SUSPENDED, ...} | {UNKNOWN, ...} | {STALE_...}
-- Invariant: what has expired is given once, and no more than expired at each of these levels. Of several limits the least that expired
-- counts, for the others let nobody spend more. What expired before the first time, or before it was asked for once in `stale_ms`, stays
-- expired.

local before, asked = repeated()
if before then return before end
demand(type(asked.target) == 'string' and type(asked.reason) == 'string' and type(asked.into) == 'string', 'collect')
demand(whole(asked.expires) and whole(asked.stale_ms), 'times')
demand(whole(asked.from, 1) and asked.from <= #path and whole(asked.arrive, 1), 'levels')
local no = open_path(true)
if no then return no end
narrow(asked.from)
no = inactive()
if no then return no end

-- What has expired at a level and was not collected: of its grants, then of each of its limits; the least of these; whether it counts.
local function waiting_at(account)
  turn_windows(account)
  expire_grants(account)
  local names, least = {'collected_at', 'x:grants'}, nil
  for n, limit in ipairs(account.level.limits) do names[2 + n] = 'x:' .. limit.key end
  local waiting = redis.call('HMGET', account_key(account.level), unpack(names))
  for n = 2, #names do
    waiting[n] = tonumber(waiting[n] or 0) + (account.added and account.added[names[n]] or 0)
    if n > 2 and (not least or waiting[n] < least) then least = waiting[n] end
  end
  local fresh = waiting[1] and now - tonumber(waiting[1]) <= asked.stale_ms
  return {account = account, names = names, waiting = waiting, least = least or 0, fresh = fresh}
end

-- A level above without limits keeps nothing from anybody, so it has nothing that could expire.
local levels, amount = {}, MAX
for i, account in ipairs(accounts) do
  if i == #accounts or #account.level.limits > 0 then
    local at = waiting_at(account)
    levels[#levels + 1] = at
    amount = math.min(amount, at.fresh and at.waiting[2] + at.least or 0)
  end
end
for _, at in ipairs(levels) do
  local account, names, waiting = at.account, at.names, at.waiting
  local of_grants = math.min(amount, waiting[2])
  add(account, names[2], at.fresh and -of_grants or -waiting[2])
  -- What one limit left waits until the others have left something, too; then more than that was never anybody's.
  if at.least > 0 or not at.fresh then
    local stays = at.fresh and at.least - (amount - of_grants) or 0
    for n = 3, #names do add(account, names[n], stays - waiting[n]) end
  end
  add(account, 'expired', -amount)
  add(account, 'given', amount)
  add(account, 'collected', amount)
  post(account, 'x', 'eg', amount)
end
commit('collect', amount, asked.reason)
for _, at in ipairs(levels) do redis.call('HSET', account_key(at.account.level), 'collected_at', int(now)) end
if amount == 0 then return remember() end
local answer = {asked.target, int(asked.arrive), asked.reason, asked.into, int(amount), int(asked.expires)}
redis.call('HSET', root_key(), A[3], cjson.encode(answer))
return remember(unpack(answer))
