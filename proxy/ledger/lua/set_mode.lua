-- Sets the mode of a policy, or takes it back.   KEYS  1 the record of interventions
-- ARGV  1 the field of the policy's mode   2 the mode ('': as the configuration has it)   3 the revision that this makes
-- Answer 1
-- Invariant: whoever is deciding at the moment decides again.

if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('HSET', KEYS[1], 'revision', ARGV[3])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2], 'revision', ARGV[3])
end
return 1
