-- Takes a transfer out of the outbox: its receiver has it.
-- ARGV  A.id
-- Answer {OK, now}
-- Invariant: called only after every grant of the transfer has been acknowledged; a repeat changes nothing.

demand(type(A.id) == 'string', 'id')
redis.call('HDEL', KEYS[2], A.id)
return {'OK', now}
