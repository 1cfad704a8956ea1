-- Puts a decision on interventions in force.   KEYS  1 the record
-- ARGV  1 the revision that the decision was made from ('': none)   2 the revision that it makes   3 the state   4 the orders
-- Answer 1: it is in force, also where an earlier try has done it   0: the record is another by now, and stays as it is
-- Invariant: a decision never undoes what was decided, or which mode was set, while it was made.

local revision = redis.call('HGET', KEYS[1], 'revision') or ''
if revision == ARGV[2] then return 1 end
if revision ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'state', ARGV[3], 'orders', ARGV[4], 'revision', ARGV[2])
return 1
