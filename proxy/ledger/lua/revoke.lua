-- Takes back what a grant has left; what a hold keeps of it stays with the hold.
-- ARGV  A.id, A.digest, A.keep_ms, A.grant, A.reason
-- Answer {OK, now} | {CONFLICT, now} | {NO_GRANT, now} | {UNKNOWN, ...}
-- Invariant: what is revoked moves from left to revoked, once.

local before = repeated()
if before then return before end
demand(type(A.grant) == 'string', 'grant')
local no = open_path(false)
if no then return no end
local account = narrow()
local g = load_grants(account)[A.grant]
if not g then return {'NO_GRANT', now} end
if g.state == 'live' then
  change_grant(account, g)
  add(account, 'revoked', g.left)
  post(account, 'g:' .. g.id, 'left', 'revoked', g.left)
  local amount = g.left
  g.state, g.revoked, g.left = 'revoked', g.revoked + g.left, 0
  commit('revoke', A.id, amount, A.reason)
end
return remember()
