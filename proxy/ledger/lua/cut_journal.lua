-- Puts a checkpoint in the place of another, and cuts the journal in front of what it does not stand for.
-- KEYS  1 the pointer   2 the journal   3 the checkpoint, which would go by itself
-- ARGV  1 the pointer as it must be ('': none)   2 as it shall be   3 the first entry that stays
-- Answer {OK} | {STALE}: another process was here, or the checkpoint is gone
-- Invariant: the checkpoint and the journal together are the whole history; the same again changes nothing.

local now = redis.call('GET', KEYS[1]) or ''
if now == ARGV[2] then return {'OK'} end
if now ~= ARGV[1] or redis.call('EXISTS', KEYS[3]) == 0 then return {'STALE'} end
redis.call('PERSIST', KEYS[3])
redis.call('SET', KEYS[1], ARGV[2])
redis.call('XTRIM', KEYS[2], 'MINID', ARGV[3])
return {'OK'}
