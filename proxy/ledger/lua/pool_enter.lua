-- Asks for a seat; or, for a ticket that runs already though the pool has lost it, takes its seat back.
-- ARGV  3 the ticket   4 '' | '+' spare   5 its root   6 its account   7 and 8 their weights   9 estimate   10 priority, -499 to 499
--       11 the channel of its worker   12 seats of a pool that is new   13 how long a new pool gives none, ms   14 waiting tickets that an
--       account may have   15 '' | what it has cost so far, of one that runs   16 memory of a pool that is new
-- Answer {SEATED | YIELDING, now} | {WAITING, now, ahead, lag} | {FULL, now, waiting, lag} | {DRAINING, now} | {GONE, now}
-- Invariant: a ticket is entered once; a repeat, or one that its own end overtook, changes nothing.

local name, class = A[3], A[4]
demand(name ~= '' and (class == '' or class == '+') and A[5] ~= '' and A[6] ~= '', 'ticket')
local root_weight, account_weight, estimate = number(7, 1, 16000000), number(8, 1, 16000000), cost(9)
local priority, seats, learning_ms, depth = number(10, -499, 499), number(12), number(13), number(14)
local memory = cost(16) * SCALE
local running = A[15] ~= '' and cost(15) -- of a request that runs already, what it has cost so far

local rows = redis.call('HMGET', KEYS[1], '', ':' .. name, class .. '/' .. A[5], class .. A[5] .. '/' .. A[6])
if rows[1] then
  read_pool(rows[1])
else
  new_pool(seats, memory, learning_ms)
end
local root = read_member(pool[class], A[5], rows[3])
local account = read_member(root.inside, A[6], rows[4])
begin_step()
local t = tickets[name] or read_ticket(name, rows[2])

if not t or (t.state == ENDED and t.dropped == 1) then
  if not running then
    if pool.draining == 1 then
      commit()
      return {'DRAINING', now}
    end
    if pool.used >= seats_given() and account.waiting >= depth then
      commit()
      return {'FULL', now, account.waiting, lag_of(root, account)}
    end
  end
  local paid = running and t and t.cumulative or 0
  t = new_ticket(name, class, A[5], A[6], estimate, priority, A[11])
  wait(t, root_weight, account_weight)
  lease(t)
  if running then
    seat_running(t, paid, running)
  elseif pool.used < seats_given() and pool.waiting + pool.spare_waiting == 1 then
    seat(t, 0)
  else
    put_in(queue_mark(t))
    give_away(name)
  end
elseif running and t.state == WAITING then
  -- A replica that lagged behind has taken over: it has not heard of the seat that the ticket was given.
  t.queued = queue_mark(t)
  seat_running(t, 0, running)
end
commit()

if t.state == ENDED then return {'GONE', now} end
if t.state == SEATED then return {t.told == 1 and 'YIELDING' or 'SEATED', now} end
local queue = queue_of(account)
return {'WAITING', now, redis.call('ZLEXCOUNT', KEYS[2], '[' .. queue, '(' .. queue_mark(t)), lag_of(root, account)}
