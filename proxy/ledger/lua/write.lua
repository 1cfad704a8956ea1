-- Counts one change that a person makes by itself, or its agents for it, where its rate has room for it.
-- KEYS  1 until when the rate is used up (us); it goes by itself once that is over
-- ARGV  3 the person   4 how many a minute
-- Answer {OK, now} | {TOO_MANY, now, wait (ms)}
-- Invariant: the rule is that of requests a minute (`prelude_rates`); balances are not touched. Each call counts, a repeat as well.

local per_minute = struct.unpack('<d', A[4])
demand(whole(per_minute, 1), 'rate')
local cost_us = cost_us_of(per_minute)
local used = beyond_now_us(tonumber(stored[1] or 0), per_minute, cost_us)
local wait = wait_us(used, per_minute, cost_us)
if wait > 0 then return {'TOO_MANY', now, math.ceil(wait / 1000)} end
redis.call('SET', KEYS[1], int(now * 1000 + used + cost_us), 'PX', int(math.ceil((used + cost_us) / 1000)))
return {'OK', now}
