-- Gives what has expired in the last account of the path to another account, and notes it as in transit.
-- ARGV  6 target (the receiving path, joined by spaces), reason, into (see grant), expires (when it expires there), stale_ms
-- Answer {OK, now, target, reason, into, credits, expires} as strings: as a transfer's; {OK, now} where there is nothing to give
--        | {CONFLICT, now} | {SUSPENDED, ...} | {UNKNOWN, ...} | {STALE_...}
-- Invariant: what has expired is given once. Of several limits the least that expired counts, for the others let nobody spend more. What
-- expired before the first time, or before it was asked for once in `stale_ms`, stays expired.

local before, asked = repeated()
if before then return before end
demand(type(asked.target) == 'string' and type(asked.reason) == 'string' and type(asked.into) == 'string', 'collect')
demand(whole(asked.expires) and whole(asked.stale_ms), 'times')
local no = open_path(true)
if no then return no end
local account = narrow()
no = inactive()
if no then return no end

turn_windows(account)
expire_grants(account)
local names = {'collected_at', 'x:grants'}
for n, limit in ipairs(account.level.limits) do names[2 + n] = 'x:' .. limit.key end
local key = account_key(account.level)
local waiting, least = redis.call('HMGET', key, unpack(names)), nil
for n = 2, #names do
  waiting[n] = tonumber(waiting[n] or 0) + (account.added and account.added[names[n]] or 0)
  if n > 2 and (not least or waiting[n] < least) then least = waiting[n] end
end
local fresh = waiting[1] and now - tonumber(waiting[1]) <= asked.stale_ms
local amount = fresh and math.min(MAX, waiting[2] + (least or 0)) or 0
add(account, names[2], -waiting[2])
-- What one limit left waits until the others have left something, too.
if least and (least > 0 or not fresh) then
  for n = 3, #names do add(account, names[n], -waiting[n]) end
end
add(account, 'expired', -amount)
add(account, 'given', amount)
add(account, 'collected', amount)
post(account, 'x', 'eg', amount)
commit('collect', amount, asked.reason)
redis.call('HSET', key, 'collected_at', int(now))
if amount == 0 then return remember() end
local answer = {asked.target, asked.reason, asked.into, int(amount), int(asked.expires)}
redis.call('HSET', root_key(), A[3], cjson.encode(answer))
return remember(unpack(answer))
