-- Takes a transfer out of the outbox: its receiver has it.
-- ARGV  3 the transfer's id
-- Answer {OK, now}
-- Invariant: called only after every grant of the transfer has been acknowledged; a repeat changes nothing.

redis.call('HDEL', root_key(), A[3])
return {'OK', now}
