-- Rates: how many requests of an account run, and how many begin a minute; the same for what a person changes (`write.lua`).
-- How many run is counted at every level, limited or not: one for each open hold, from its making to its end. How many began is
-- one time (GCRA): until when they have used up the rate. Each moves it by `cost_us`, and it never lies more than a whole minute's
-- requests ahead; so that many may begin at once, and over time no more than that a minute. What has begun stays counted however it ends.

-- How far a rate that is used up until then is so beyond now. What lies further ahead than any rate reaches is from before the clock was
-- set back, as a failover may do, and no longer counts.
local function beyond_now_us(until_us, per_minute, cost_us)
  local ahead = until_us - now * 1000
  if ahead <= 0 or ahead > 2 * MINUTE_US then return 0 end
  return math.min(ahead, per_minute * cost_us)
end

-- The same of a level's rate.
local function used_us(account)
  return beyond_now_us(account[USED_UNTIL], account.level.per_minute, account.level.cost_us)
end

-- How long the next one must wait where a rate is used up so far; 0 or less: it may begin now.
local function wait_us(used, per_minute, cost_us)
  return used - (per_minute - 1) * cost_us
end

-- How many of the root's holds are over, but still counted.
local function overdue()
  return redis.call('ZCOUNT', root_key(), '-inf', int(now))
end

-- Nil, or the answer that names the level that may not begin a request now: the first from the root where as many run as may, else the
-- one whose rate makes it wait longest (ms).
local function too_many()
  local longest_us, at = 0, nil
  for i = 1, #accounts do
    local account, level = accounts[i], accounts[i].level
    if level.at_once > 0 and account[RUNNING] >= level.at_once then
      return {'TOO_MANY', now, i - 1, 'running', level.at_once, 0, overdue()}
    end
    if level.per_minute > 0 then
      local wait = wait_us(used_us(account), level.per_minute, level.cost_us)
      if wait > longest_us then longest_us, at = wait, level end
    end
  end
  return at and {'TOO_MANY', now, at.number - 1, 'begun', at.per_minute, math.ceil(longest_us / 1000), overdue()}
end

-- Counts a request that begins.
local function count_begun()
  for i = 1, #accounts do
    local account = accounts[i]
    account[RUNNING], account.moved = account[RUNNING] + 1, true
    if path.rated and account.level.per_minute > 0 then
      account[USED_UNTIL] = now * 1000 + used_us(account) + account.level.cost_us
    end
  end
end

-- Counts one that has ended.
local function count_ended()
  for i = 1, #accounts do
    local account = accounts[i]
    account[RUNNING], account.moved = account[RUNNING] - 1, true
  end
end

-- Adds to an answer the rate of the path that leaves least, where it has one: level, requests a minute, how many of them may begin now,
-- when all of them may.
local function with_rate(answer)
  if not path.rated then return answer end
  local at, least, used = nil, nil, nil
  for i = 1, #accounts do
    local level = accounts[i].level
    if level.per_minute > 0 then
      local ahead = used_us(accounts[i])
      local left = level.per_minute - math.ceil(ahead / level.cost_us)
      if not at or left < least then at, least, used = level, left, ahead end
    end
  end
  local n = #answer
  if at then
    answer[n + 1], answer[n + 2], answer[n + 3], answer[n + 4] = at.number - 1, at.per_minute, least, now + math.ceil(used / 1000)
  end
  return answer
end
