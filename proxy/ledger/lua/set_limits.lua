-- Gives the last account of the path limits of its own, or its plan's again.
-- ARGV  6 limits (JSON; '' for the plan's)
-- Answer {OK, now} | {CONFLICT, now} | {UNKNOWN, ...}
-- Invariant: windows keep what they paid and hold; the version tells every reader that it must read again.

local before, asked = repeated()
if before then return before end
demand(type(asked.limits) == 'string', 'limits')
local no = open_path(false)
if no then return no end
local account = accounts[#accounts]
account[VERSION], account.moved = account[VERSION] + 1, true
redis.call('HSET', account_key(account.level), 'limits', asked.limits, 'version', int(account[VERSION]))
commit('set_limits', 0)
return remember()
