"""Which dialect and operation a request's path belongs to.

Only the plain spelling of a path is served: what any server on the way might decode, fold or split is refused, and what no dialect names
is refused too. Knows the tables of operations, not what they do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import NamedTuple
from urllib.parse import unquote

from proxy.dialects.protocol import ID_IN_PATH, MODEL_IN_PATH, MODEL_NAME_LENGTH_MAX, REST_OF_PATH, Dialect, Operation
from proxy.dialects.unpriced import why_unpriced
from proxy.errors import Refusal

PATH_LENGTH_MAX = 1024
SEGMENTS_MAX = 8
"""How far paths are compared to tell whose API a stranger belongs to."""
SUGGESTIONS_MAX = 3
SIMILAR = 0.75
"""How much of a path must be the same for another one to be suggested, from 0 to 1."""
UNPRICED_HINT = "Do without it, or ask the operator, who can reach the upstream directly."

_CANONICAL = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~:@!$&'()*+,=-]+)+/?")
"""Plain segments alone."""
_ESCAPED_SEGMENTS = re.compile(r"(?:%[0-9A-Fa-f]{2}|[A-Za-z0-9._~:@!$&'()*+,=/-])+")
_PLAIN_SEGMENT = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._~:@+-]+")


class Found(NamedTuple):
    """What a path means, and the model that it names, or the id of what is kept, where it does."""

    dialect: Dialect
    operation: Operation
    model: str | None = None


class _Template(NamedTuple):
    """A path with a name in it: what stands before and after, and what it means by method."""

    before: str
    after: str
    by_method: dict[str, list[Found]]


class Paths:
    """The paths of some dialects; where two have the same one, the earlier dialect's counts unless the client's headers say otherwise."""

    def __init__(self, dialects: Iterable[Dialect]) -> None:
        self._dialects: dict[str, Dialect] = {}
        self._exact: dict[str, dict[str, list[Found]]] = {}
        templates: dict[str, _Template] = {}
        rests: dict[str, dict[str, list[Found]]] = {}
        for dialect in dialects:
            for operation in dialect.operations:
                self._dialects.setdefault(operation.path, dialect)
                before, is_template, after = operation.path.partition(ID_IN_PATH if operation.kept else MODEL_IN_PATH)
                if is_template:
                    by_method = templates.setdefault(operation.path, _Template(before, after, {})).by_method
                else:
                    by_method = self._exact.setdefault(operation.path, {})
                by_method.setdefault(operation.method, []).append(Found(dialect, operation))
                if operation.path.endswith(REST_OF_PATH):
                    rests.setdefault(operation.path.removesuffix("*"), {}).setdefault(operation.method, []).append(
                        Found(dialect, operation)
                    )
        self._rests = sorted(rests.items(), key=lambda rest: -len(rest[0]))
        self._templates = sorted(templates.values(), key=lambda t: (-len(t.after), -len(t.before)))  # the most particular first

    def find(self, method: str, path: str, headers: Container[str] = ()) -> Found:
        """The dialect, operation and model for a request's path as it came, without its query.

        Raises Refusal: invalid_request (not canonical), unknown_path, method_not_allowed.
        """
        by_method = self._exact.get(path)
        name = ""
        if by_method is None:
            by_method, name = self._find_template(method, path)
        found = by_method.get(method)
        if found is None:
            if name:
                _read_name(name, next(iter(by_method.values()))[0].operation)
            allowed = ", ".join(sorted(by_method))
            raise Refusal("method_not_allowed", f"This path takes {allowed} only.", hint=f"Send the request as {allowed}.")
        meant = found[0] if len(found) == 1 else _meant(found, headers)
        return meant._replace(model=_read_name(name, meant.operation)) if name else meant

    def nearest(self, path: str) -> Dialect | None:
        """The dialect with whose paths this one has most in common, segment by segment; None where none has anything."""
        asked = _segments(path)
        best, most = None, 0
        for known, dialect in self._dialects.items():
            common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(asked, _segments(known), strict=False)))
            if common > most:
                best, most = dialect, common
        return best

    def methods_at(self, path: str) -> Sequence[str]:
        """The methods that a path takes; none where nothing is served at it."""
        try:
            return sorted(self._exact.get(path) or self._find_template("", path)[0])
        except Refusal:
            return ()

    def _find_template(self, method: str, path: str) -> tuple[dict[str, list[Found]], str]:
        matching = []
        for before, after, by_method in self._templates:
            name = path[len(before) : len(path) - len(after)]
            if name and path.startswith(before) and path.endswith(after):
                if method in by_method:
                    return by_method, name
                matching.append((by_method, name))
        if matching:
            return matching[0]
        _check_canonical(path)
        self._check_spelling(path)
        for before, by_method in self._rests:
            if path.startswith(before):
                return _at(path, by_method), ""
        why = None if path.rstrip("/") in self._exact else why_unpriced(path)
        if why is not None:
            raise Refusal("unknown_path", f"This path is not served, for it cannot be priced here: {why}.", hint=UNPRICED_HINT)
        raise Refusal("unknown_path", "Nothing is served at this path.", hint=self._hint(path))

    def _check_spelling(self, path: str) -> None:
        """See that no operation is meant in another spelling, which a server may serve and a rule for the rest would price otherwise."""
        plain = path.rstrip("/").casefold()
        if not self._rests or plain == path:
            return
        for known in self._dialects:
            before, _, after = known.partition(MODEL_IN_PATH)
            if plain == known.casefold() or (after and plain.startswith(before.casefold()) and plain.endswith(after.casefold())):
                raise Refusal("unknown_path", "Nothing is served at this path.", hint=f"Did you mean {known}?")

    def _hint(self, path: str) -> str:
        if "/v1" + path in self._exact:
            return f"Did you mean /v1{path}? Let the client's base URL end in /v1."
        if path.rstrip("/") in self._exact:
            return f"Did you mean {path.rstrip('/')}?"
        below = [known for known in self._exact if path != "/" and known.startswith(path.rstrip("/") + "/")][:SUGGESTIONS_MAX]
        near = below or difflib.get_close_matches(path, self._exact, n=SUGGESTIONS_MAX, cutoff=SIMILAR)
        if near:
            return f"Did you mean {' or '.join(near)}?"
        return f"Served here are, among others, {', '.join(list(self._exact)[:SUGGESTIONS_MAX])}."


def _segments(path: str) -> Sequence[str]:
    return [segment for segment in path.split("/", SEGMENTS_MAX) if segment]


def _at(path: str, by_method: dict[str, list[Found]]) -> dict[str, list[Found]]:
    """The operations of all paths that begin in one way, as those of this path."""
    return {
        method: [found._replace(operation=replace(found.operation, path=path)) for found in candidates]
        for method, candidates in by_method.items()
    }


def _meant(candidates: Sequence[Found], headers: Container[str]) -> Found:
    marked = (found for found in candidates if found.operation.marker and found.operation.marker in headers)
    plain = (found for found in candidates if not found.operation.marker)
    return next(marked, None) or next(plain, candidates[0])


def _read_name(name: str, operation: Operation) -> str:
    """A model's name, or an id, from a path. It may be escaped where the path is not forwarded; clients escape a `/` in it."""
    spelling = _PLAIN_SEGMENT if operation.forwarded else _ESCAPED_SEGMENTS
    model = unquote(name) if spelling.fullmatch(name) else ""
    if not model.isprintable() or len(model) > MODEL_NAME_LENGTH_MAX or {"", ".", ".."} & set(model.split("/")):
        if operation.kept:
            raise Refusal("invalid_request", "The path does not hold the id of a file or a batch.", hint="Use the id as it was answered.")
        raise Refusal("invalid_request", "The path does not hold a model's name.", hint="Name a model of the list at /v1/models.")
    return model


def _check_canonical(path: str) -> None:
    if len(path) > PATH_LENGTH_MAX or (path != "/" and not _CANONICAL.fullmatch(path)):
        raise Refusal(
            "invalid_request",
            "The path is not in canonical form.",
            hint="Send a plain absolute path, without escapes, empty or dot segments, semicolons or backslashes.",
        )
