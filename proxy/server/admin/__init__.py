"""The admin API and its listener.

A request's way: `listener` (edge) > `tokens` (who) > `routing` (which route, may they, what did they send) > one of `accounts`,
`credits`, `book`, `pools`, `history` (act) > `events` (audit log) > `views`, `records` (answer) or `problems` (no). `models` and
`fields` say what may be sent; `openapi` describes it all from the same table and models.
"""

from proxy.server.admin.listener import AdminListener
from proxy.server.admin.tokens import Tokens, configured_tokens, token_of

__all__ = ["AdminListener", "Tokens", "configured_tokens", "token_of"]
