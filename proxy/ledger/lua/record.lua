-- Writes one line of the audit log.   KEYS  1 the mark of the operation   2 the log
-- ARGV  1 how long the mark stays, ms   then the fields of the line, name and value
-- Answer {OK} | {REPEATED}
-- Invariant: one operation is recorded once.

if redis.call('EXISTS', KEYS[1]) == 1 then return {'REPEATED'} end
local line = {}
for n = 2, #ARGV do line[n - 1] = ARGV[n] end
redis.call('XADD', KEYS[2], '*', unpack(line))
redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
return {'OK'}
