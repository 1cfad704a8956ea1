"""Who may call the admin API: tokens, their roles, and what each role may do.

| role     | may                                                                                                  |
|----------|------------------------------------------------------------------------------------------------------|
| viewer   | read everything (no answer holds a secret)                                                           |
| operator | also: accounts, limits, keys, grants, adjustments, transfers, and run an audit                       |
| owner    | also: plans and prices, which change what everybody pays and gets                                    |

Tokens are kept as SHA-256 and compared in constant time, every one of them at each call.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from proxy import config
from proxy.errors import SetupError

Role = Literal["viewer", "operator", "owner"]
TOKEN_CHARACTERS_MIN = 16
TOKEN_CHARACTERS_MAX = 512
_RANK: dict[Role, int] = {"viewer": 0, "operator": 1, "owner": 2}


@dataclass(frozen=True, slots=True)
class Token:
    """An admin token as the process knows it: its name in the audit log, its role, and the SHA-256 of its secret."""

    name: str
    role: Role
    sha256: bytes

    def may(self, role: Role) -> bool:
        """Whether this token may do what `role` may do."""
        return _RANK[self.role] >= _RANK[role]


def token_of(name: str, role: Role, secret: str) -> Token:
    """The token for a secret. Raises SetupError where the secret is too short to be one, or cannot travel in a header."""
    if not TOKEN_CHARACTERS_MIN <= len(secret) <= TOKEN_CHARACTERS_MAX:
        raise SetupError(f"admin token {name!r} must have {TOKEN_CHARACTERS_MIN} to {TOKEN_CHARACTERS_MAX} characters")
    if not secret.isascii() or not secret.isprintable() or " " in secret:
        raise SetupError(f"admin token {name!r} must be printable ASCII without spaces")
    return Token(name, role, _sha256(secret))


def configured_tokens(section: config.Admin) -> tuple[Token, ...]:
    """The tokens of the configuration's `[admin]`, secrets read; the unnamed one is an owner called "admin"."""
    tokens = []
    secret = config.read_secret(env=section.token_env, file=section.token_file, what="[admin] token")
    if secret is not None:
        tokens.append(token_of("admin", "owner", secret))
    for row in section.tokens:
        what = f"admin token {row.name!r}"
        secret = config.read_secret(env=row.token_env, file=row.token_file, what=what)
        if secret is None:
            raise SetupError(f"{what}: give token_env or token_file")
        tokens.append(token_of(row.name, row.role, secret))
    return tuple(tokens)


class Tokens:
    """All tokens of the process."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        for what, values in (("name", [t.name for t in tokens]), ("secret", [t.sha256.hex() for t in tokens])):
            if len(set(values)) != len(values):
                raise SetupError(f"two admin tokens have the same {what}")
        if not tokens:
            raise SetupError("there is no admin token")
        self._tokens = tuple(tokens)

    def find(self, secret: str) -> Token | None:
        """The token with this secret; the time it takes says nothing of which, or how nearly."""
        digest = _sha256(secret)
        found = None
        for token in self._tokens:
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found


def _sha256(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
