-- Sees to it that nothing is ever done under the id of an operation that was refused, also by whoever tries at the same time.
-- ARGV  6 nothing
-- Answer {OK, now} | {CONFLICT, now}: it was done already
-- Invariant: balances are not touched; a repeat changes nothing.

local before = repeated()
if before then return before end
return remember()
