"""One operation of one dialect as the tables of tests speak it: how it is asked, what an upstream answers, what that costs by hand.

To add a dialect, write `speech_<dialect>.py` after the manner of `speech_openai.py`: a `Speech` for each operation, in a tuple that
`speeches.py` collects. Every charge in it is worked out by hand, from the prices of `deployments.py`: a token of input costs
3 nanocredits, cached input 2, output 7, reasoning 11; the models of a `family` have more kinds. The prompt is `HELLO`; the answer is
WORDS: three tokens as a stream (a delta each), ceil(14/4) = 4 as a whole. Then run `pytest tests/e2e/test_conformance.py -k <dialect>`
and `pytest tests/dialects/test_every_split.py -k <dialect>`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

Json = dict[str, Any]

HELLO: Final = "hello"
"""The prompt: 5 bytes, counted ceil(5/4) = 2 tokens; in a message 2 + 4 + 3 = 9. Its bound is 5 + 8 + 16 = 29 in a message."""
WORDS: Final = ("one ", "two ", "three ")
TEXT: Final = "".join(WORDS)
NO_USAGE: Final = b""
"""In place of a usage: the upstream reports none. The bytes of `openai_answers.NO_USAGE`, so both may be compared with `is`."""

MISSING: Final = "missing"
"""The kind of usage that is none; what is absurd is charged as if it were missing."""


class Charge(NamedTuple):
    """Nanocredits for a complete answer; None where the operation has no such answer."""

    streamed: int | None
    whole: int | None


GENERATED: Final[Mapping[str, Charge]] = {
    "present": Charge(71, 71),  # 12 x 3 + 5 x 7
    "none used": Charge(21, 28),  # 0 x 3 + 0 x 7, but three words were seen: 3 x 7; and no whole text has no tokens: 4 x 7 counted
    "below words": Charge(57, 43),  # 12 x 3 + 1 x 7 as a whole; three words were seen: 3 x 7
}
"""Charges that are the same wherever text is generated and billed as `bill(12, 5)`, `bill(0, 0)` and `bill(12, 1)`."""


class Asked(NamedTuple):
    """A request: its path with the query, its body (encoded as JSON unless it is bytes), and headers beside the credential."""

    path: str
    body: Json | bytes
    headers: Mapping[str, str] = {}


def bearer(key: str) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {key}"}


def code_in_json(code: str) -> bytes:
    return b'"code":"%b"' % code.encode()


@dataclass(frozen=True, kw_only=True)
class Speech:
    """One operation of one dialect."""

    name: str
    """`<dialect>-<operation>`: begins the ids of its tests."""
    dialect: str
    family: str = ""
    """What the names of its models begin with: `""` or a family of the prices in `deployments.py` (`"caching-"`, `"hearing-"`)."""
    names_model: bool = True
    """False where the API has no place for a model, so that each model needs an upstream, and a proxy, of its own."""
    alone: bool = False
    """Whether its paths are other dialects' too, so that it needs the proxy of such dialects alone."""

    # --- asking ------------------------------------------------------------------------------------------------------------
    ask: Callable[[str, bool], Asked]
    """The request for a model, streamed or not. Streams ask for usage where the API lets clients ask, so that bytes do not change."""
    credential: Callable[[str], Mapping[str, str]] = bearer
    """The headers in which this dialect's clients send their key."""
    maximum: tuple[str, ...] = ()
    """Where the request's body names the most tokens to write: members, outermost first; none where it has no such member."""

    # --- the upstream's answers --------------------------------------------------------------------------------------------
    events: Callable[[Sequence[str], object], list[bytes]] | None = None
    """A complete stream of some words with this usage; each word in one event, one right after the other. None: it never streams."""
    whole: Callable[[str, object], bytes] | None = None
    """A whole answer of some text with this usage. None: it always streams."""
    media_type: str = "text/event-stream"
    """Of the stream."""
    whole_media_type: str = "application/json"
    second_word: bytes = b'"two "'
    """What the event of the second word contains."""
    end_marked: bool = True
    """Whether a stream says that it ends; else one that stops after any word is complete."""
    error: bytes
    """The body of an error of the upstream's own."""
    error_event: bytes = b""
    """The same in the middle of a stream; empty where the API has none."""

    # --- usage and what it costs -------------------------------------------------------------------------------------------
    bill: Callable[[int, int], object]
    """The usage of so many tokens of input and output."""
    usages: Mapping[str, object] = field(default_factory=dict)
    """Further kinds of usage than those of `usage()`: `details` at least, where the API reports any."""
    absurd: Mapping[str, object]
    """Usage of which nothing may be believed."""
    charges: Mapping[str, Charge]
    """By kind of usage, `missing` among them."""
    input_nanocredits: int
    """What the prompt is charged where no usage comes."""
    held_nanocredits: int
    """What is held for the prompt: its bound, all of it of the dearest kind."""
    word_nanocredits: int = 7
    word_held_nanocredits: int = 11
    """A word might turn out to be of the dearest kind, and is held for as such."""
    broken: Mapping[str, int] = field(default_factory=dict)
    """The charge for a stream that ended after two words, where it is not that of the input and two words, by kind of usage: for APIs
    that report usage before the end."""

    # --- how a cut and a refusal look --------------------------------------------------------------------------------------
    error_cut: Callable[[str], bytes] | None = code_in_json
    """What an error event of the proxy's own contains, for its code; None where the API cannot say it and the connection breaks."""
    length_cut: tuple[bytes, ...] | None = None
    """What a stream that is ended as if by length contains after its second word; None where the API cannot say it."""
    refusal_code: Callable[[Any, int], str]
    """The code in the document of a refusal with this status; asserts that it has the dialect's own shape."""

    def model(self, name: str) -> str:
        """The model of this family by its plain name: `tiny`, `short`, `impatient`, `closed`."""
        return self.family + name

    def asked(self, name: str = "tiny", *, stream: bool = False, maximum: int | None = None) -> Asked:
        """The request for a plain model's name, with this maximum of output where one is given."""
        asked = self.ask(self.model(name), stream)
        return asked if maximum is None else asked._replace(body=_with_member(asked.body, self.maximum, maximum))

    def maximum_in(self, document: Any) -> object:
        """The maximum that a request's document names."""
        for member in self.maximum:
            document = document[member]
        return document

    def usage(self, kind: str) -> object:
        """What the upstream reports in this row of the table."""
        if kind in self.usages:
            return self.usages[kind]
        if kind in self.absurd:
            return self.absurd[kind]
        return {"present": self.bill(12, 5), "none used": self.bill(0, 0), "below words": self.bill(12, 1), MISSING: NO_USAGE}[kind]

    def stream(self, kind: str = MISSING) -> list[bytes]:
        """The events of a complete stream of WORDS."""
        assert self.events is not None
        return self.events(WORDS, self.usage(kind))

    def until_two_words(self, kind: str = MISSING) -> list[bytes]:
        """The events of that stream up to its second word."""
        events = self.stream(kind)
        return events[: next(place for place, event in enumerate(events) if self.second_word in event) + 1]

    def broken_nanocredits(self, kind: str = MISSING) -> int:
        """The charge for a stream that ended after two words."""
        return self.broken.get(kind, self.input_nanocredits + 2 * self.word_nanocredits)

    @property
    def two_words_held_nanocredits(self) -> int:
        """What must be held before two words may be forwarded."""
        return self.held_nanocredits + 2 * self.word_held_nanocredits


def _with_member(body: Json | bytes, path: Sequence[str], value: object) -> Json:
    assert isinstance(body, dict)
    inner = _with_member(body.get(path[0], {}), path[1:], value) if len(path) > 1 else value
    return {**body, path[0]: inner}
