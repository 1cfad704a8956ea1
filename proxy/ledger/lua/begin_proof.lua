-- Begins what audits have folded of a tree at a checkpoint, in the place of what was folded before.
-- KEYS  1 what is folded   2 the checkpoint's copy, with its place in the field '', which would go by itself
-- ARGV  1 the place as it must be in what was folded before ('': none)
-- Answer 1: it begins there   0: another process was here, and nothing changes

local there = redis.call('HGET', KEYS[1], '') or ''
if there ~= ARGV[1] or redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
redis.call('RENAME', KEYS[2], KEYS[1])
redis.call('PERSIST', KEYS[1])
return 1
