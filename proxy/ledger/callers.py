"""Who calls with which key, as one process keeps it: found by the key's digest, and let go by the digest or by any account of the path.

An account's change costs by the callers that it concerns, not by all that are kept: there may be a hundred thousand.
"""

from __future__ import annotations

from typing import Final

from proxy.domain import Caller

CALLERS_MAX: Final = 100_000


class KeptCallers:
    """Callers by the SHA-256 of their keys (hex); None stands for a key that nobody has."""

    def __init__(self) -> None:
        self._callers: dict[str, Caller | None] = {}
        self._on: dict[str, set[str]] = {}
        """The digests of those on whose path an account stands."""

    def __contains__(self, key_digest: str) -> bool:
        return key_digest in self._callers

    def get(self, key_digest: str) -> Caller | None:
        return self._callers.get(key_digest)

    def keep(self, key_digest: str, caller: Caller | None) -> None:
        if len(self._callers) >= CALLERS_MAX:
            self.clear()
        self.forget(key_digest)
        self._callers[key_digest] = caller
        for account_id in caller.path if caller is not None else ():
            self._on.setdefault(account_id, set()).add(key_digest)

    def forget(self, key_digest: str) -> None:
        caller = self._callers.pop(key_digest, None)
        for account_id in caller.path if caller is not None else ():
            on = self._on[account_id]
            on.discard(key_digest)
            if not on:
                del self._on[account_id]

    def forget_account(self, account_id: str) -> None:
        """Let go whoever has this account on its path."""
        for key_digest in tuple(self._on.get(account_id, ())):
            self.forget(key_digest)

    def clear(self) -> None:
        self._callers.clear()
        self._on.clear()
