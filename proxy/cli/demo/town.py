"""The people of the demo: each has an account and a key, asks the proxy like any client, and keeps an account book of their own.

Their books are how the demo checks the proxy's: the words that really arrived, times the price. Knows the HTTP surfaces alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import aiohttp

from proxy.domain import nanocredits_from_credits

INPUT_NANOCREDITS: Final = 10_000
OUTPUT_NANOCREDITS: Final = 1_000_000
"""Of each token; so a word costs 0.001 credit, and a credit buys a thousand words."""
PRICE: Final = {"model": "*", "input": "10", "output": "1000"}
MODEL: Final = "storyteller"
"""It says as many words as it may."""
SCARCE_UPSTREAM: Final = "workshop"
SCARCE_MODEL: Final = "artisan"
SCARCE_SEATS: Final = 4
"""It serves only so many requests at a time."""
DEAR_UPSTREAM: Final = "mill"
DEAR_MODEL: Final = "miller"
DEAR_PRICE: Final = {"model": DEAR_MODEL, "input": "10", "output": "1000000"}
DEAR_NANOCREDITS: Final = 1_000_000_000
"""Of each of its tokens: what the whole town used before hardly counts beside it."""
DEAR_SEATS: Final = 4


class Unexpected(Exception):
    """The proxy's answer is not one that the story knows."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an answer ended: complete, or with the code of a refusal and the last that the client received."""

    words: int
    code: str | None = None
    last: str = ""
    waited_s: float = 0.0
    """For a seat."""


class Person:
    """Someone with an account, a key, and their own count of what they received."""

    def __init__(self, town: Town, account_id: str, key: str, *, depth: int) -> None:
        self.id = account_id
        self.key = key
        self.depth = depth
        """How many accounts are above."""
        self.words = 0
        self.running = 0
        self.stopped = ""
        """How the last request was stopped: refused, or cut off; empty while all goes well."""
        self.due_nanocredits = 0
        """By their own count."""
        self.limit = self.spent = self.held = self.granted = Decimal(0)
        """By the proxy's: the limit of the account, what was spent in all, what is held now, what was granted in addition."""
        self._town = town

    async def refresh(self) -> None:
        """Fetch the account from the proxy."""
        account = await self._town.admin("GET", f"accounts/{self.id}")
        self.limit = sum((Decimal(limit["credits"]) for limit in account["limits"]), Decimal(0))
        self.spent, self.held, self.granted = (Decimal(account[name]) for name in ("spent", "held", "granted"))

    async def listen(self, prompt: str, words: int, *, on_word: Callable[[str], None] = lambda _: None) -> Ending:
        """Ask for a streamed answer of so many words and listen to its end."""
        body = {**_request(prompt, words), "stream": True, "stream_options": {"include_usage": True}}
        async with self._town.ask(self, body) as answer:
            if answer.status != 200:
                return self._was_stopped(await answer.json(), 0)
            self.stopped = ""
            heard, usage = 0, None
            async for line in answer.content:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    self._owe(_tokens_of(prompt), heard)
                    return self._was_stopped(event, heard, last=line.decode().strip())
                usage = event.get("usage") or usage
                for choice in event["choices"]:
                    if word := choice["delta"].get("content"):
                        heard += 1
                        self.words += 1
                        on_word(word)
        if usage is None:
            raise Unexpected(f"{self.id}: a stream ended without its usage")
        self._owe(usage["prompt_tokens"], usage["completion_tokens"])
        return Ending(heard)

    async def ask(self, prompt: str, words: int, *, model: str = MODEL) -> Ending:
        """Ask for a whole answer of so many words."""
        async with self._town.ask(self, {**_request(prompt, words), "model": model}) as answer:
            document = await answer.json()
            waited_s = int(answer.headers.get("X-Ledger-Queue-Ms", 0)) / 1000
        if answer.status != 200:
            return self._was_stopped(document, 0)
        self.stopped = ""
        usage = document["usage"]
        self.words += usage["completion_tokens"]
        each = DEAR_NANOCREDITS if model == DEAR_MODEL else OUTPUT_NANOCREDITS
        self._owe(usage["prompt_tokens"], usage["completion_tokens"], each_nanocredits=each)
        return Ending(usage["completion_tokens"], waited_s=waited_s)

    def _owe(self, input_tokens: int, output_tokens: int, *, each_nanocredits: int = OUTPUT_NANOCREDITS) -> None:
        self.due_nanocredits += input_tokens * INPUT_NANOCREDITS + output_tokens * each_nanocredits

    def _was_stopped(self, document: dict[str, Any], words: int, *, last: str = "") -> Ending:
        self.stopped = "cut off" if words else "refused"
        return Ending(words, document["error"]["code"], last)


class Town:
    """Everyone, and the operator's office."""

    def __init__(self, session: aiohttp.ClientSession, *, proxy_url: str, admin_url: str, token: str) -> None:
        self.people: list[Person] = []
        self._session = session
        self._proxy_url = proxy_url
        self._admin_url = admin_url
        self._token = token

    async def admin(self, method: str, path: str, body: object = None) -> Any:
        """One call of the admin API, as an operator makes it."""
        headers = {"Authorization": f"Bearer {self._token}"}
        async with self._session.request(method, f"{self._admin_url}/admin/v1/{path}", json=body, headers=headers) as answer:
            document = await answer.json()
        if answer.status >= 300:
            raise Unexpected(f"{method} {path}: {document}")
        return document

    async def open(
        self, account_id: str, credits: str, *, below: Person | None = None, window: str = "day", weight: int | None = None
    ) -> Person:
        """A new account with a limit and a key."""
        members = {"parent": None if below is None else below.id, "weight": weight}
        given = {name: value for name, value in members.items() if value is not None}
        await self.admin("POST", "accounts", {"id": account_id, **given, "limits": [{"credits": credits, "window": window}]})
        key = await self.admin("POST", f"accounts/{account_id}/keys")
        person = Person(self, account_id, key["key"], depth=0 if below is None else below.depth + 1)
        await person.refresh()
        self.people.append(person)
        return person

    def ask(self, person: Person, body: object) -> Any:
        url, headers = f"{self._proxy_url}/v1/chat/completions", {"Authorization": f"Bearer {person.key}"}
        return _Asking(person, self._session.post(url, json=body, headers=headers))

    def own_count_nanocredits(self) -> int:
        """What everyone owes by their own count."""
        return sum(person.due_nanocredits for person in self.people)

    async def charged_nanocredits(self) -> int:
        """What the proxy has charged them, counted once each: at the top of every tree."""
        for person in self.people:
            await person.refresh()
        return sum(nanocredits_from_credits(person.spent) for person in self.people if person.depth == 0)


class _Asking:
    """A request under way, which counts as running until it has ended."""

    def __init__(self, person: Person, request: Any) -> None:
        self._person = person
        self._request = request

    async def __aenter__(self) -> aiohttp.ClientResponse:
        self._person.running += 1
        answer: aiohttp.ClientResponse = await self._request.__aenter__()
        return answer

    async def __aexit__(self, *error: object) -> None:
        self._person.running -= 1
        await self._request.__aexit__(*error)


def _request(prompt: str, words: int) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "max_tokens": words}


def _tokens_of(prompt: str) -> int:
    """What a prompt counts when no bill comes, for the stream was cut; the same as the simulated model would have billed."""
    return -(-len(prompt.encode()) // 4) + 4 + 3
