-- Sets a pool up, or changes how it is.
-- ARGV  3 seats, '' as it is   4 memory, '' as it is   5 draining 0 | 1, '' as it is   6 how long a new pool gives no seat, ms
-- Answer {OK, now} | {UNKNOWN, now}: a pool that is not there yet begins with a number of seats, or with its first ticket
-- Invariant: nobody loses a seat; with fewer than are taken, none is given until enough leave.

local packed = redis.call('HGET', KEYS[1], '')
if packed then
  read_pool(packed)
elseif A[3] == '' then
  return {'UNKNOWN', now}
else
  new_pool(0, 0, number(6))
end
if A[3] ~= '' then pool.seats = number(3) end
if A[4] ~= '' then pool.memory = cost(4) * SCALE end
if A[5] ~= '' then pool.draining = number(5, 0, 1) end
begin_step()
commit()
return {'OK', now}
