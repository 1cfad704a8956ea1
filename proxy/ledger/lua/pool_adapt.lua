-- Moves the number of seats between two bounds: up by so many, or down to a part of what it is, the latter at most once in a while.
-- ARGV  3 how many more   4 percent of the present number that are left, 100 to cut nothing   5 least   6 most   7 the while, ms
-- Answer {OK, now, seats} | {UNKNOWN, now}
-- Invariant: nobody loses a seat; with fewer than are taken, none is given until enough leave. Several workers that hear the same no
-- cut once. The time of the last cut stands among the records, under '#cut'.

local more, percent, least, most, while_ms = number(3, 0, 1000), number(4, 1, 100), number(5, 0), number(6, 0), number(7)
local packed = redis.call('HGET', KEYS[1], '')
if not packed then return {'UNKNOWN', now} end
read_pool(packed)
local seats = pool.seats + more
if percent < 100 and now - tonumber(redis.call('HGET', KEYS[1], '#cut') or 0) >= while_ms then
  seats = math.floor(pool.seats * percent / 100)
  redis.call('HSET', KEYS[1], '#cut', wide(now))
end
pool.seats = math.max(least, math.min(most, seats))
begin_step()
commit()
return {'OK', now, pool.seats}
