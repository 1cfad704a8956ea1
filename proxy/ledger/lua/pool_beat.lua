-- Renews a worker's leases, and tells it where its tickets are: what it missed while its messages were lost.
-- ARGV  3... the tickets
-- Answer {OK, now, a letter for each ticket: S seated, Y told to stop, W waits, G not known}
-- Invariant: what is renewed in time is not dropped; a seat that became free unseen is given away.

local fields = {''}
for n = 3, #A do fields[n - 1] = ':' .. A[n] end
local rows = redis.call('HMGET', KEYS[1], unpack(fields))
if not rows[1] then return {'OK', now, string.rep('G', #A - 2)} end
local renewed = {}
for n = 3, #A do
  if rows[n - 1] and cmsgpack.unpack(rows[n - 1]) ~= ENDED then
    renewed[#renewed + 1] = now + lease_ms
    renewed[#renewed + 1] = A[n]
  end
end
if renewed[1] then redis.call('ZADD', KEYS[3], unpack(renewed)) end
read_pool(rows[1])
begin_step()
commit()
local letters = {}
for n = 3, #A do letters[n - 2] = LETTERS[place(tickets[A[n]] or read_ticket(A[n], rows[n - 1]))] end
return {'OK', now, table.concat(letters)}
