"""Frozen dataclasses for what is made at every request.

The type checker keeps them frozen, as it does any; the interpreter does not check it once more at every field of every object made, which
costs several times what the object itself does. They are compared and hashed by their values, as frozen ones are.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen, slots):
        """As `dataclasses.dataclass(frozen=True, slots=True)`."""
        assert frozen, "what changes is no value"
        assert slots, "a value has its fields and nothing else"
        return dataclasses.dataclass(slots=True, unsafe_hash=True)
