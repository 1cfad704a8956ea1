"""The ledger's Lua: one verb per file, the shared prelude in front.

Where the server knows functions (version 7 on) all verbs are one library, whose parts are made once and which keeps the paths that it
has read; else each verb is a script of its own, which begins anew at each call and takes far longer. Names carry a digest of the text, so
that two releases can share a server.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

PRELUDE = ("prelude", "prelude_accounts", "prelude_credits", "prelude_holds")
"""What stands in front of every verb, in this order."""

STANDALONE = ("record",)
"""Scripts that touch no account and so go without the prelude."""

VERBS = (
    "hold",
    "debit",
    "extend",
    "settle",
    "void",
    "expire",
    "grant",
    "revoke",
    "adjust",
    "transfer",
    "deliver",
    "set_limits",
    "open",
    "change",
    "audit",
)

LANDS_WHEN_FULL = ("debit", "settle", "void", "expire", "deliver")
"""The ends of holds: they free what is held, and must land even when the server has no memory left."""


@dataclass(frozen=True, slots=True)
class Script:
    """A piece of Lua, and the command that loads it."""

    source: bytes
    sha: str
    load: tuple[str | bytes, ...]


@dataclass(frozen=True, slots=True)
class Library:
    """All verbs as functions, and the command that loads them."""

    prefix: str
    load: tuple[str | bytes, ...]


def _read(name: str) -> str:
    return (resources.files("proxy.ledger") / "lua" / f"{name}.lua").read_text(encoding="utf-8")


def _prelude() -> str:
    return "\n".join(_read(name) for name in PRELUDE)


@cache
def script(name: str, *, flags: bool) -> Script:
    """One verb by itself; `flags` where the server knows script flags (from version 7)."""
    if name in STANDALONE:
        text = _read(name)
    else:
        verb = f"local function verb()\n{_read(name)}\nend\nbegin(given_keys, given_values)\nreturn verb()\n"
        text = f"local given_keys, given_values = KEYS, ARGV\n{_prelude()}\n{verb}"
    if flags and name in LANDS_WHEN_FULL:
        text = f"#!lua flags=allow-oom\n{text}"
    source = text.encode()
    return Script(source, hashlib.sha1(source, usedforsecurity=False).hexdigest(), ("SCRIPT", "LOAD", source))


@cache
def functions() -> Library:
    """Every verb, as `<prefix><verb>`."""
    verbs = "\n".join(f"verbs.{name} = function()\n{_read(name)}\nend" for name in VERBS)
    text = f"{_prelude()}\nlocal verbs = {{}}\n{verbs}\n"
    prefix = f"cl_{hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:12]}_"
    registrations = "\n".join(
        f"redis.register_function{{function_name='{prefix}{name}', flags={{{_flag(name)}}}, "
        f"callback=function(keys, values) begin(keys, values) return verbs.{name}() end}}"
        for name in VERBS
    )
    source = f"#!lua name={prefix.rstrip('_')}\n{text}{registrations}\n"
    return Library(prefix, ("FUNCTION", "LOAD", "REPLACE", source))


def _flag(name: str) -> str:
    if name == "audit":
        return "'no-writes'"
    return "'allow-oom'" if name in LANDS_WHEN_FULL else ""
