"""The ledger's Lua: one verb per file, the shared prelude in front, named by the SHA-1 that the server knows it by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

STANDALONE = ("record", "unmark")
"""Scripts that touch no account and so go without the prelude."""

LANDS_WHEN_FULL = ("debit", "settle", "void", "expire", "deliver", "unmark")
"""The ends of holds: they free what is held, and must land even when the server has no memory left."""


@dataclass(frozen=True, slots=True)
class Script:
    name: str
    source: bytes
    sha: str


@cache
def load(name: str, *, flags: bool) -> Script:
    """One verb's script; `flags` where the server knows script flags (from version 7)."""
    folder = resources.files("proxy.ledger") / "lua"
    source = (folder / f"{name}.lua").read_text(encoding="utf-8")
    if name not in STANDALONE:
        source = (folder / "prelude.lua").read_text(encoding="utf-8") + source
    if flags and name in LANDS_WHEN_FULL:
        source = f"#!lua flags=allow-oom\n{source}"
    data = source.encode()
    return Script(name, data, hashlib.sha1(data, usedforsecurity=False).hexdigest())
