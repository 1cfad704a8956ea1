-- Renews a worker's leases, and tells it where its tickets are: what it missed while its messages were lost.
-- ARGV  3... the tickets; none, to see only that what is due is done
-- Answer {OK, now, a letter for each ticket: S seated, Y told to stop, W waits, G not known, 1 where more is due at once, else 0}
--        | {UNKNOWN, now, G for each ticket, 0}
-- Invariant: what is renewed in time is not dropped; a seat that became free unseen is given away. One call does a bounded part of what
-- is due; who is told of more asks again.

local fields = {''}
for n = 3, #A do fields[n - 1] = ':' .. A[n] end
local rows = redis.call('HMGET', KEYS[1], unpack(fields))
if not rows[1] then return {'UNKNOWN', now, string.rep('G', #A - 2), 0} end
local renewed = {}
for n = 3, #A do
  if rows[n - 1] and cmsgpack.unpack(rows[n - 1]) ~= ENDED then
    renewed[#renewed + 1] = now + lease_ms
    renewed[#renewed + 1] = A[n]
  end
end
if renewed[1] then redis.call('ZADD', KEYS[3], unpack(renewed)) end
read_pool(rows[1])
if #A == 2 and not is_due() then return {'OK', now, '', 0} end
begin_step(OVERDUE_PER_BEAT)
commit()
local letters = {}
for n = 3, #A do letters[n - 2] = LETTERS[place(tickets[A[n]] or read_ticket(A[n], rows[n - 1]))] end
return {'OK', now, table.concat(letters), is_due() and 1 or 0}
