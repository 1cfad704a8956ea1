-- Changes the settings of the last account of the path; what is not named stays.
-- ARGV  A.id, A.digest, A.keep_ms, A.plan?, A.weight?, A.status?, A.labels? (JSON)
-- Answer {OK, now} | {CONFLICT, now} | {CLOSED, now} (a closed account stays closed) | {UNKNOWN, ...}
-- Invariant: balances are not touched; the version tells every reader that it must read again.

local before = repeated()
if before then return before end
local no = open_path(false)
if no then return no end
local account = accounts[#accounts]
if account.status == 'closed' and A.status ~= 'closed' then return {'CLOSED', now} end
local fields = {'version', int(account.version + 1)}
for _, name in ipairs({'plan', 'status', 'labels'}) do
  if A[name] then
    demand(type(A[name]) == 'string', name)
    fields[#fields + 1] = name
    fields[#fields + 1] = A[name]
  end
end
if A.weight then
  demand(whole(A.weight), 'weight')
  fields[#fields + 1] = 'weight'
  fields[#fields + 1] = int(A.weight)
end
redis.call('HSET', account.key, unpack(fields))
return remember()
