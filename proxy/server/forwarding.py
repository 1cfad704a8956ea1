"""An upstream's answer on its way to the client: as a whole, or piece by piece as it comes.

Nothing is sent that the hold does not cover, and every way out settles first, so that whoever reads the account after the answer's end
sees what it cost. `metering` decides, `holding` carries out, `exchange` keeps the time limits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from aiohttp import HttpVersion11, web

from proxy import domain
from proxy.dialects import Reader
from proxy.errors import Expected, Failure, LedgerUnavailable, Refusal, UpstreamError, UpstreamTimeout
from proxy.metrics import CutReason, Metrics
from proxy.server import answers
from proxy.server.decoding import CodedReader, Undecodable
from proxy.server.errand import Errand, Visit, broken_off
from proxy.server.exchange import ClientTooSlow
from proxy.server.metering import NO_CHARGE, Charge, Meter
from proxy.server.sending import Letter
from proxy.server.upstream import Endpoint, Reply
from proxy.server.whole import JOINED_MAX_BYTES, Whole

ANSWER_MAX_BYTES = 64 * 2**20
REST_S = 0.2
REST_MAX_BYTES = 2**16
"""How long, and how much, an upstream may go on after its end marker; then it is over."""

CUT_REASONS: dict[str, CutReason] = {"ledger_unavailable": "ledger", "draining": "drain"}


class Forwarder:
    """Forwards answers, and counts what they cost."""

    def __init__(self, metrics: Metrics, now_ms: Callable[[], int]) -> None:
        self._metrics = metrics
        self._now_ms = now_ms

    async def forward(self, errand: Errand, reply: Reply) -> web.StreamResponse:
        """Forward an answer in the form that it has, whichever the request asked for."""
        answers.add_queue(reply.headers, errand.visit.queued_s)
        answers.add_price(reply.headers, errand.hold.meter.price)
        answers.add_interventions(reply.headers, errand.visit.treatment.applied)
        if reply.status >= 400:
            answers.spare_waiting(reply.headers)
        reader = None if reply.status >= 400 else errand.dialect.read_stream(errand.call, reply.media_type)
        if reader is None:
            return await self._forward_whole(errand, reply)
        if reply.decoder is not None:
            reader = CodedReader(reader, reply.decoder)
        return await self._forward_stream(errand, reply, reader)

    async def relay(self, request: web.BaseRequest, visit: Visit, letter: Letter, endpoint: Endpoint) -> web.StreamResponse:
        """Fetch what costs nothing, and forward it as it is. Raises UpstreamError, UpstreamTimeout."""
        try:
            async with asyncio.timeout(endpoint.section.first_byte_timeout_s):
                with await letter.send_to(endpoint) as reply:
                    body = await reply.read(max_bytes=ANSWER_MAX_BYTES, heard=lambda: None)
                    _check_secret(endpoint, reply.meaning(body, max_bytes=ANSWER_MAX_BYTES))
        except TimeoutError:
            raise UpstreamTimeout(f"The upstream {endpoint.name} did not answer in time.") from None
        if reply.status >= 400:
            visit.outcome = "upstream_error"
        answers.add_budget(reply.headers, None, request_id=visit.request_id, now_ms=self._now_ms())
        return Whole(reply.status, reply.headers, body)

    # --- as a whole --------------------------------------------------------------------------------------------------------------

    async def _forward_whole(self, errand: Errand, reply: Reply) -> web.StreamResponse:
        """Read all of it, settle, then send it, with its cost in the headers."""
        hold, visit = errand.hold, errand.visit
        body, meaning = await self._read_whole(errand, reply)
        charge = self._charge_whole(errand, reply, meaning)
        errand.leave_seat(charge)  # whatever is still to be covered
        await self._cover_whole(errand, charge)
        held_nanocredits = hold.amount_nanocredits
        settlement = await hold.settle(charge)
        answers.add_budget(
            reply.headers,
            hold.left_after(held_nanocredits, charge),
            request_id=visit.request_id,
            now_ms=self._now_ms(),
            rate=hold.rate,
            settlement=settlement,
            unit=hold.meter.price.unit,
        )
        response = Whole(reply.status, reply.headers, body)
        if len(body) > JOINED_MAX_BYTES:  # a client that does not read it must not keep it in memory for ever
            with errand.exchange:
                errand.exchange.writes()
                await response.prepare(errand.request)
                await response.write_eof()
        return response

    async def _read_whole(self, errand: Errand, reply: Reply) -> tuple[bytes, bytes]:
        """The body, and what it says, which is the same unless it is coded."""
        try:
            body = reply.at_once()
            if body is None:
                with errand.exchange:
                    errand.exchange.reads()
                    body = await reply.read(max_bytes=ANSWER_MAX_BYTES, heard=errand.exchange.reads)
            meaning = reply.meaning(body, max_bytes=ANSWER_MAX_BYTES)
            _check_secret(errand.endpoint, meaning)
        except Failure:
            errand.hold.meter.call_off()  # none of it is forwarded, so none of it is charged
            raise
        return body, meaning

    def _charge_whole(self, errand: Errand, reply: Reply, meaning: bytes) -> Charge:
        answer = errand.dialect.read_answer(errand.call, meaning, reply.media_type)
        if reply.status >= 400:
            errand.visit.outcome = "upstream_error"
            if answer.usage is None:
                return NO_CHARGE
        return errand.hold.meter.charge_whole(answer)

    async def _cover_whole(self, errand: Errand, charge: Charge) -> None:
        """See that the hold covers all output before any is sent. What cannot be covered is refused, and is the proxy's own loss."""
        hold, tokens = errand.hold, charge.usage.output_tokens
        if hold.meter.covers(tokens):
            return
        refusal: Expected
        try:
            if await hold.cover(tokens):
                return
            refusal = hold.used_up()
        except LedgerUnavailable as failure:
            refusal = failure
        await hold.settle(Charge(0, charge.spent_nanocredits + charge.overrun_nanocredits, domain.Usage()))
        raise refusal

    # --- piece by piece ----------------------------------------------------------------------------------------------------------

    async def _forward_stream(self, errand: Errand, reply: Reply, reader: Reader) -> web.StreamResponse:
        """Forward it as it comes, as far as the hold covers it; its end marker waits until the hold is settled."""
        hold, request = errand.hold, errand.request
        request_id, unit = errand.visit.request_id, hold.meter.price.unit
        answers.add_budget(reply.headers, hold.tightest, request_id=request_id, now_ms=self._now_ms(), rate=hold.rate, unit=unit)
        response = web.StreamResponse(status=reply.status, headers=reply.headers)
        if request.version >= HttpVersion11:
            response.enable_chunked_encoding()
        self._metrics.stream_opened()
        try:
            await response.prepare(request)
            try:
                with errand.exchange:
                    await _pump(errand, reply, reader, response)
                hold.meter.stop_time()
            except Expected as reason:
                reply.close()
                return await self._cut(errand, reader, response, reason)
            if reader.failed:
                errand.visit.outcome = "upstream_error"
            await hold.settle(hold.meter.charge(complete=True))
            return await _written(errand, response, hold.meter.last or b"", ends=True)
        finally:
            self._metrics.stream_closed()

    async def _cut(self, errand: Errand, reader: Reader, response: web.StreamResponse, reason: Expected) -> web.StreamResponse:
        """End a stream that the upstream has not ended: settle what was forwarded, then say so in the dialect's words."""
        meter = errand.hold.meter
        charge = meter.charge(complete=False)
        await errand.hold.settle(charge)
        upstream_is_gone = isinstance(reason, (UpstreamError, UpstreamTimeout))
        errand.visit.outcome = "upstream_gone" if upstream_is_gone else "cut"
        if not upstream_is_gone:
            self._metrics.stream_cut(CUT_REASONS.get(reason.code, "budget"))
        if isinstance(reason, Refusal) and errand.endpoint.section.cut == "length":
            farewell = reader.cut_by_length(charge.usage, unsent=meter.refused)
        else:
            farewell = reader.cut_by_error(reason, unsent=meter.refused)
        breaks_off = upstream_is_gone or farewell is None
        await _written(errand, response, farewell or b"", ends=not breaks_off)
        if breaks_off:
            raise broken_off(errand.request)  # never a clean end, which clients take for a complete answer
        return response


def _check_secret(endpoint: Endpoint, meaning: bytes) -> None:
    if endpoint.is_repeated_in(meaning):
        raise UpstreamError(f"The upstream {endpoint.name} repeated the proxy's own credentials.")


async def _pump(errand: Errand, reply: Reply, reader: Reader, response: web.StreamResponse) -> None:
    """Forward until the end marker has come, which is kept back.

    Raises Refusal insufficient_quota where the budget ends, LedgerUnavailable where nobody can say, UpstreamError where the upstream
    breaks off, and whatever interrupts the exchange.
    """
    hold, exchange = errand.hold, errand.exchange
    meter = hold.meter
    chunk = b"-"
    while chunk and meter.last is None:
        exchange.reads()
        chunk = await reply.next_chunk()
        try:
            pieces = reader.feed(chunk) if chunk else reader.close()
        except Undecodable as error:
            raise reply.undecodable(error) from error
        meter.deltas = reader.deltas
        meter.usage_rejected = reader.usage_rejected
        while pieces:
            data, pieces = meter.take(pieces)
            if data:
                exchange.writes()
                await response.write(data)
            if pieces:  # nothing covers the next one: wait for more, or cut here
                meter.refused = pieces
                if not await hold.cover(pieces[0].output_tokens):
                    raise hold.used_up()
                meter.refused = ()
        if meter.runs_low:
            hold.extend_ahead()
    if meter.last is not None and not reply.is_over:
        await _take_rest(reply, reader, meter)
    if not reader.ended and not reader.failed:
        raise UpstreamError(f"The upstream {errand.endpoint.name} ended its answer without the end marker.")


async def _take_rest(reply: Reply, reader: Reader, meter: Meter) -> None:
    """What follows an end marker at once: some servers end twice. And only a connection that is read to its end is used again."""
    with contextlib.suppress(TimeoutError, UpstreamError, Undecodable):
        async with asyncio.timeout(REST_S):
            while len(meter.last or b"") <= REST_MAX_BYTES and (chunk := await reply.next_chunk()):
                meter.take(reader.feed(chunk))


async def _written(errand: Errand, response: web.StreamResponse, data: bytes, *, ends: bool) -> web.StreamResponse:
    """The response with its last bytes written. Raises ClientTooSlow where the client does not take them in time."""
    try:
        async with asyncio.timeout(errand.exchange.write_timeout_s):
            if ends:
                await response.write_eof(data)
            else:
                await response.write(data)
    except TimeoutError:
        raise ClientTooSlow from None
    return response
