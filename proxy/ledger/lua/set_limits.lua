-- Gives the last account of the path limits of its own, or its plan's again.
-- ARGV  A.id, A.digest, A.keep_ms, A.limits (JSON; '' for the plan's)
-- Answer {OK, now} | {CONFLICT, now} | {UNKNOWN, ...}
-- Invariant: windows keep what they paid and hold; the version tells every reader that it must read again.

local before = repeated()
if before then return before end
demand(type(A.limits) == 'string', 'limits')
local no = open_path(false)
if no then return no end
local account = accounts[#accounts]
redis.call('HSET', account.key, 'limits', A.limits, 'version', int(account.version + 1))
return remember()
