"""What people can see and do with their own key on the proxy listener, under `/ledger/v1/`: account, journal, prices, estimate, transfers.

Everything is the caller's own: no call takes an account to look at. Errors have the shape that the OpenAI clients read. Must not know how
a request is carried out; an estimate uses the same reading and pricing as admission, and nothing runs.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from aiohttp import web

from proxy.dialects import DIALECTS, Request, document
from proxy.domain import CREDITS, AccountId, Caller, Ledger, Path, Price, credits_from_nanocredits
from proxy.errors import Expected, Refusal
from proxy.ledger import Directory, Journal
from proxy.ledger.giving import Giving
from proxy.policy.pricing import PriceBook, cost_nanocredits
from proxy.server import answers, estimating, reading
from proxy.server.admin.body import BODY_BYTES_MAX, BODY_TIMEOUT_S
from proxy.server.admin.credits import carry_over
from proxy.server.admin.equality_views import OwnAccountView, PlaceView
from proxy.server.admin.fields import CreditsText
from proxy.server.admin.history import journal_answer
from proxy.server.admin.models import JournalQuery, ModelQuery, NoQuery, OwnTransferCreate
from proxy.server.admin.problems import Mistakes
from proxy.server.admin.records import PricePage, PriceView
from proxy.server.admin.routing import Desk, MethodNotAllowed, find, respond, wants_csv
from proxy.server.admin.views import TransferView, View, credits_or_none
from proxy.server.admission import Admission, Asked
from proxy.server.equality import ReadPlaces
from proxy.server.own_calls import PREFIX, Answer, Asking, OwnCall


class TokensView(View):
    """What an estimate was calculated from: tokens over all choices together."""

    input_counted: int
    input_bound: int
    output_estimated: int
    output_max: int


class EstimateView(View):
    """What a request may cost, in the caller's unit. `fits`: it would be let in now; `fits_largest`: even its largest cost is there."""

    model: str
    operation: str
    stream: bool
    estimated: CreditsText
    largest: CreditsText
    available: CreditsText | None
    unit: str
    fits: bool
    fits_largest: bool
    tokens: TokensView


class OwnPricePage(PricePage):
    """Prices in credits. What they cost the caller is divided by `index`, credits for a unit; null where it counts in credits itself."""

    unit: str
    index: CreditsText | None


class SelfService:
    """Answers every path under `/ledger/`."""

    def __init__(
        self,
        directory: Directory,
        ledger: Ledger,
        journal: Journal,
        *,
        admission: Callable[[], Admission],
        slice_tokens: Callable[[], int],
        now_ms: Callable[[], int],
        giving: Giving,
        places: ReadPlaces,
        count_write: Callable[[Caller], Awaitable[None]],
        calls: Sequence[OwnCall] = (),
    ) -> None:
        self._directory = directory
        self._desk = Desk(directory, ledger, journal, giving=giving)
        self._admission = admission
        self._slice_tokens = slice_tokens
        self._now_ms = now_ms
        self._places = places
        self._count_write = count_write
        self._calls = (
            OwnCall("GET", "/account", self._account),
            OwnCall("GET", "/journal", self._journal),
            OwnCall("GET", "/prices", self._prices),
            OwnCall("POST", "/estimate", self._estimate, only_reads=True),
            OwnCall("POST", "/transfers", self._transfer),
            *calls,
        )

    async def handle(self, request: web.BaseRequest, caller: Caller, *, request_id: str | None = None) -> web.StreamResponse:
        """The answer for an identified caller, refusals included."""
        number = request_id or secrets.token_hex(16)
        try:
            path = request.raw_path.partition("?")[0]
            call, ids = find(self._calls, request.method, path, prefix=PREFIX, hint=f"GET {PREFIX}/account shows your budget")
            if call.writes:
                await self._count_write(caller)
            asking = Asking(request, caller, ids, f"{PREFIX}{call.path.format(**ids)}", self._directory.claim)
            response = await respond(request, await call.act(asking), status=call.status)
        except MethodNotAllowed as error:
            return self._refused(request, error, number, allow=", ".join(error.allowed))
        except Mistakes as error:
            refusal = Refusal("invalid_request", f"{error.mistakes[0].place}: {error.mistakes[0].message}")
            return self._refused(request, refusal, number)
        except Expected as error:
            if caller.plan.unit != CREDITS:
                error.counts_in(caller.plan.unit, self._directory.levels.index(caller.plan.unit, self._now_ms()))
            return self._refused(request, error, number)
        if not response.prepared:
            response.headers.update({"X-Request-Id": number, "Server": answers.SERVER, "Cache-Control": "no-store"})
        return response

    def _refused(self, request: web.BaseRequest, refusal: Expected, request_id: str, *, allow: str | None = None) -> web.Response:
        phrasing = DIALECTS["openai"]
        response = answers.refused(refusal, phrasing, request_id=request_id, now_ms=self._now_ms(), allow=allow)
        if not request.content.is_eof():
            response.force_close()
        return response

    async def _account(self, asking: Asking) -> OwnAccountView:
        asking.query(NoQuery)
        account = await self._directory.account(asking.caller.account)
        places = await self._places(asking.caller.path)
        shown = {window: None if place is None else PlaceView.of(place) for window, place in places.items()}
        return OwnAccountView.of(account).model_copy(update={"place": shown})

    async def _journal(self, asking: Asking) -> Answer:
        """The caller's own history; what it moved at the levels above is left out."""
        query, own = asking.query(JournalQuery), asking.caller.account
        return await journal_answer(
            self._desk, own, query, wants_csv=wants_csv(asking.request), shown=lambda posting: posting.account == own
        )

    async def _prices(self, asking: Asking) -> OwnPricePage:
        """The rows in force now, in credits, and the caller's unit: of one model the row that would price it, else one of each pattern."""
        query = asking.query(ModelQuery)
        book, now_ms = PriceBook(self._directory.price_book), self._now_ms()
        patterns = [query.model] if query.model is not None else sorted({row.model for row in book.rows})
        rows = (self._in_force(book, pattern, now_ms, exactly=query.model is None) for pattern in patterns)
        unit = asking.caller.plan.unit
        return OwnPricePage(
            items=tuple(PriceView.of(row) for row in rows if row is not None),
            next=None,
            unit=unit,
            index=None if unit == CREDITS else credits_or_none(self._directory.levels.index(unit, now_ms)),
        )

    def _in_force(self, book: PriceBook, pattern: str, now_ms: int, *, exactly: bool) -> Price | None:
        row = book.find(pattern, now_ms)
        return row if row is None or not exactly or row.model == pattern else None

    # --- estimates -------------------------------------------------------------------------------------------------------------

    async def _estimate(self, asking: Asking) -> EstimateView:
        asking.query(NoQuery)
        path, body = await _read_estimate(asking.request)
        admission = self._admission()
        dialect, operation, model = admission.paths.find("POST", path, asking.request.headers)
        asked = admission.read(dialect, Request(operation, body, model))
        return await self._estimated(asking.caller.path, asked, admission.price(asking.caller, asked))

    async def _estimated(self, path: Path, asked: Asked, price: Price) -> EstimateView:
        """Likely: the counted input and one slice of output. Largest: the input's bound and the maximum, stated or the operator's."""
        call = asked.call
        output_max = asked.output_tokens_max if call.output_tokens_max is None else call.output_tokens_max
        output_estimated = min(output_max, self._slice_tokens()) * call.choices
        largest = estimating.bound_nanocredits(call, price, output_tokens=output_max * call.choices)
        likely = cost_nanocredits(price, replace(call.units, input=call.input_tokens_counted, output=output_estimated))
        first = asked.estimate(price, slice_tokens=self._slice_tokens())
        _, levels = await self._directory.snapshot(path)
        amounts = [level.available_nanocredits for level in levels if level.available_nanocredits is not None]
        available = min(amounts) if amounts else None
        active = all(level.status == "active" for level in levels)
        return EstimateView(
            model=call.model,
            operation=call.operation,
            stream=call.stream,
            estimated=credits_from_nanocredits(min(likely, largest)),
            largest=credits_from_nanocredits(largest),
            available=credits_or_none(available),
            unit=price.unit,
            fits=active and (available is None or first.least_nanocredits <= available),
            fits_largest=active and (available is None or largest <= available),
            tokens=TokensView(
                input_counted=call.input_tokens_counted,
                input_bound=call.input_tokens_bound,
                output_estimated=output_estimated,
                output_max=output_max * call.choices,
            ),
        )

    # --- transfers -------------------------------------------------------------------------------------------------------------

    async def _transfer(self, asking: Asking) -> TransferView:
        plan = asking.caller.plan
        if asking.caller.person:
            raise Refusal("transfers_not_allowed", "Agents cannot give credits away: they have a cap on their person's, none of their own.")
        if not plan.transfers:
            raise Refusal(
                "transfers_not_allowed",
                f"Accounts of the plan {plan.name!r} cannot give credits away.",
                hint="Ask whoever runs this proxy.",
            )
        body, author = await asking.body(OwnTransferCreate)
        return await carry_over(
            self._desk,
            source=asking.caller.account,
            target=AccountId(body.target),
            credits_nanocredits=body.credits,
            reason=body.reason,
            author=author,
        )


async def _read_estimate(request: web.BaseRequest) -> tuple[str, bytes]:
    """The path and the very bytes of the body that is asked about."""
    reading.check_framing(request, body_max_bytes=BODY_BYTES_MAX)
    received = await reading.read_body(request, body_max_bytes=BODY_BYTES_MAX, timeout_s=BODY_TIMEOUT_S)
    asked = document.read_object(received)
    if set(asked) != {"path", "body"} or not isinstance(asked["path"], str) or not isinstance(asked["body"], dict):
        raise Refusal(
            "invalid_request",
            'Send {"path": "...", "body": {...}}: where the request would go, and its body.',
        )
    return asked["path"], bytes(document.members_of(received)["body"])
