"""The APIs that are spoken here: bytes in, facts out.

Owns the table of dialects and the choice of one by path. Each dialect has one module named after it; what they share is in `protocol`,
`counting`, `document` and `sse`. Knows no budget, no clock and no connection.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from urllib.parse import unquote

from proxy.dialects.counting import MediaRule
from proxy.dialects.openai import OpenAI
from proxy.dialects.protocol import MODEL_NAME_LENGTH_MAX, Dialect, Operation, Reader, ledger_member, utc_time
from proxy.errors import Refusal

__all__ = ["DIALECTS", "Dialect", "MediaRule", "Operation", "Reader", "for_path", "ledger_member", "utc_time"]

PATH_LENGTH_MAX = 1024

DIALECTS: Mapping[str, Dialect] = MappingProxyType({"openai": OpenAI()})

_CANONICAL = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~:@!$&'()*+,=-]+)+/?")
"""Plain segments alone: what any server on the way might decode, fold or split is not among them."""
_ESCAPED_SEGMENTS = re.compile(r"(?:%[0-9A-Fa-f]{2}|[A-Za-z0-9._~:@!$&'()*+,=/-])+")
_PREFIX = "/*"

Found = tuple[Dialect, Operation]


def _by_path(*, prefixes: bool) -> Mapping[str, Mapping[str, Found]]:
    """The operations by path (or by what their paths begin with), then by method."""
    table: dict[str, dict[str, Found]] = {}
    for dialect in DIALECTS.values():
        for operation in dialect.operations:
            if operation.path.endswith(_PREFIX) == prefixes:
                table.setdefault(operation.path.removesuffix("*"), {})[operation.method] = (dialect, operation)
    return table


_EXACT = _by_path(prefixes=False)
_BY_PREFIX = _by_path(prefixes=True)


def for_path(method: str, path: str) -> Found:
    """The dialect and operation for a request's path as it came, without its query.

    Raises Refusal: invalid_request (not canonical), unknown_path, method_not_allowed.
    """
    by_method = _EXACT.get(path) or _find_by_prefix(path)
    found = by_method.get(method)
    if found is None:
        allowed = ", ".join(sorted(by_method))
        raise Refusal("method_not_allowed", f"This path takes {allowed} only.", hint=f"Send the request as {allowed}.")
    return found


def _find_by_prefix(path: str) -> Mapping[str, Found]:
    for prefix, by_method in _BY_PREFIX.items():
        if path.startswith(prefix) and path != prefix:
            model = _read_model(path[len(prefix) :])
            return {method: (dialect, replace(operation, model=model)) for method, (dialect, operation) in by_method.items()}
    _check_canonical(path)
    raise Refusal("unknown_path", "Nothing is served at this path.", hint=_hint(path))


def _read_model(name: str) -> str:
    """A model's name from the end of a path. It may be escaped, since no such path is forwarded; clients escape a `/` in it."""
    model = unquote(name) if _ESCAPED_SEGMENTS.fullmatch(name) else ""
    if not model.isprintable() or len(model) > MODEL_NAME_LENGTH_MAX or {"", ".", ".."} & set(model.split("/")):
        raise Refusal("invalid_request", "The path does not end in a model's name.", hint="Name a model of the list at /v1/models.")
    return model


def _check_canonical(path: str) -> None:
    if len(path) > PATH_LENGTH_MAX or (path != "/" and not _CANONICAL.fullmatch(path)):
        raise Refusal(
            "invalid_request",
            "The path is not in canonical form.",
            hint="Send a plain absolute path, without escapes, empty or dot segments, semicolons or backslashes.",
        )


def _hint(path: str) -> str:
    if "/v1" + path in _EXACT:
        return f"Did you mean /v1{path}? Let the client's base URL end in /v1."
    if path.rstrip("/") in _EXACT:
        return f"Did you mean {path.rstrip('/')}?"
    return f"Served here: {', '.join(_EXACT)}."
