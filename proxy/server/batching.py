"""Files and batches for their owners: an upload is priced and remembered, a batch is held for and begun, and both are shown to no one else.

Everything is forwarded as it came, and what it leads to is recorded (`ledger.batches`); `batch_settling` looks after it from then on. The
price of a file is fixed when it is uploaded, so a batch of it is held at that price or refused; what interventions make of it is decided
when its hold begins.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import msgspec
from aiohttp import HttpVersion11, web

from proxy.dialects import Request, openai_batches
from proxy.domain import Caller, Hold, Path
from proxy.errors import BUDGET_CODES, Conflict, Expected, Failure, LedgerUnavailable, Refusal, UpstreamError, UpstreamTimeout
from proxy.ledger.batches import BatchInput, BatchRecords, KeptBatch, KeptFile
from proxy.policy.orders import NEUTRAL, Treatment
from proxy.policy.units import name_unit, nominal_nanocredits
from proxy.server import answers, fetching
from proxy.server.admission import Admission
from proxy.server.batch_input import read_input
from proxy.server.batch_settling import BatchSettler
from proxy.server.catalogue import check_allowed
from proxy.server.errand import Visit, broken_off
from proxy.server.fetching import Fetched
from proxy.server.holds import Holds
from proxy.server.interventions import Interventions
from proxy.server.upstream import JSON, Endpoint

CREATION_TIMEOUT_S = 60.0
"""Well below the age at which a creation counts as lost (`batch_settling`)."""
_UNCERTAIN_STATUS = 408
"""With this one, as with any from 500 on, a batch may have begun all the same."""


@dataclass(frozen=True, slots=True)
class Concern:
    """One request about a file or a batch."""

    request: web.BaseRequest
    visit: Visit
    caller: Caller
    asked: Request
    passing: str
    """Lines of the head that come from the client."""

    @property
    def id(self) -> str:
        """The id that the path names."""
        return self.asked.model or ""


class Batching:
    """Answers every request about files and batches."""

    def __init__(
        self,
        records: BatchRecords,
        holds: Holds,
        settler: BatchSettler,
        *,
        admission: Callable[[], Admission],
        check_active: Callable[[Path], Awaitable[None]],
        not_served: Callable[[Caller, str, str, int], None],
        interventions: Callable[[], Interventions | None],
        write_timeout_s: Callable[[], float],
        now_ms: Callable[[], int],
    ) -> None:
        self._records = records
        self._holds = holds
        self._settler = settler
        self._admission = admission
        self._check_active = check_active
        self._not_served = not_served
        self._interventions = interventions
        self._write_timeout_s = write_timeout_s
        self._now_ms = now_ms
        self._acts: Mapping[str, Callable[[Concern], Awaitable[web.StreamResponse]]] = {
            "file_upload": self._upload,
            "file": self._show_file,
            "file_deletion": self._delete_file,
            "file_content": self._show_content,
            "batch_creation": self._create,
            "batch": self._show_batch,
            "batch_cancellation": self._show_batch,
        }

    async def serve(self, concern: Concern) -> web.StreamResponse:
        """Answer one request. Raises Refusal, Failure."""
        return await self._acts[concern.asked.operation.name](concern)

    # --- files -------------------------------------------------------------------------------------------------------------------

    async def _upload(self, concern: Concern) -> web.StreamResponse:
        """Read what the file asks for, forward it, and remember whose it is and what it may cost."""
        path = concern.caller.path
        content = openai_batches.read_upload(concern.asked.body, concern.asked.headers)
        await self._check_active(path)
        await self._records.check_room(path)
        asked, endpoint = await read_input(self._admission(), concern.caller, content)
        concern.visit.model = asked.model
        answer = await self._forward(concern, endpoint)
        if answer.status < 400:
            file_id = openai_batches.read_id(answer.meaning)
            if file_id is None:
                raise UpstreamError(f"The upstream {endpoint.name} took the file and did not name it.")
            await self._records.keep_file(path, file_id, KeptFile(endpoint.name, self._now_ms(), asked))
        return self._shown(concern, answer)

    async def _show_file(self, concern: Concern) -> web.StreamResponse:
        return self._shown(concern, await self._forward(concern, await self._own_file(concern)))

    async def _delete_file(self, concern: Concern) -> web.StreamResponse:
        answer = await self._forward(concern, await self._own_file(concern))
        if answer.status < 400 or answer.status == 404:
            await self._records.drop_file(concern.caller.path, concern.id)
        return self._shown(concern, answer)

    async def _show_content(self, concern: Concern) -> web.StreamResponse:
        """Forward a file as it comes, for it may be large."""
        endpoint = await self._own_file(concern)
        request, timeout_s = concern.request, self._write_timeout_s()
        async with fetching.opened(endpoint, concern.asked.operation.path_to(concern.id), passing=concern.passing) as reply:
            answers.add_budget(reply.headers, None, request_id=concern.visit.request_id, now_ms=self._now_ms())
            response = web.StreamResponse(status=reply.status, headers=reply.headers)
            if reply.status >= 400:
                concern.visit.outcome = "upstream_error"
            if request.version >= HttpVersion11:
                response.enable_chunked_encoding()
            await response.prepare(request)
            try:
                while chunk := await fetching.next_chunk(endpoint, reply):
                    async with asyncio.timeout(timeout_s):
                        await response.write(chunk)
            except (UpstreamError, UpstreamTimeout, TimeoutError):
                concern.visit.outcome = "upstream_gone"
                raise broken_off(request) from None
            await response.write_eof()
        return response

    async def _own_file(self, concern: Concern) -> Endpoint:
        """Where the caller's own file is. Raises Refusal not_found."""
        file = await self._records.file(concern.caller.path, concern.id)
        if file is None:
            raise _not_yours("file", concern.id)
        return self._endpoint(concern, file.upstream)

    # --- batches -----------------------------------------------------------------------------------------------------------------

    async def _create(self, concern: Concern) -> web.StreamResponse:
        """Hold the file's bound and begin the batch; whether the client still waits makes no difference once it is on its way."""
        caller, visit = concern.caller, concern.visit
        creation = openai_batches.read_creation(concern.asked.body)
        file = await self._records.file(caller.path, creation.input_file_id)
        if file is None or file.input is None:
            raise _not_yours("file", creation.input_file_id)
        self._check_input(caller, file.input, creation.endpoint)
        endpoint = self._endpoint(concern, file.upstream)
        visit.model = file.input.model
        await self._records.check_room(caller.path)
        treatment = visit.treatment = await self._treatment(caller)
        batch = KeptBatch(
            *(visit.request_id, caller.path, file.upstream, creation.input_file_id, self._now_ms(), file.input),
            person=caller.person or caller.path,
            price_percent=treatment.price_percent,
            tithe_share=treatment.tithe_share,
        )
        try:
            hold = await self._hold_for(batch, caller, treatment)
        except Refusal as refusal:
            self._not_served(caller, endpoint.name, refusal.code, nominal_nanocredits(batch.price, batch.bound_nanocredits))
            raise
        began = await asyncio.shield(self._holds.in_background(self._begin(concern, batch, endpoint)))
        if isinstance(began, Expected):
            raise began
        response = self._shown(concern, began)
        answers.add_price(response.headers, batch.price)
        answers.add_interventions(response.headers, treatment.applied)
        now_ms, unit = self._now_ms(), batch.price.unit
        answers.add_budget(response.headers, hold.tightest, request_id=visit.request_id, now_ms=now_ms, rate=hold.rate, unit=unit)
        return response

    def _check_input(self, caller: Caller, asked: BatchInput, url: str) -> None:
        """See that what a file was priced for is still so. Raises Refusal: invalid_request, model_not_allowed, conflict."""
        if asked.url != url:
            raise Refusal("invalid_request", f"The requests of the file go to {asked.url}, not to {url[:64]!r}.", hint="Name its endpoint.")
        check_allowed(caller, asked.model)
        if not self._admission().is_price_of(asked.price, asked.model):
            raise Conflict(f"The price of {asked.model} has changed since the file was uploaded.", hint="Upload it again.")

    async def _treatment(self, caller: Caller) -> Treatment:
        """What interventions make of a batch that begins now."""
        interventions = self._interventions()
        if interventions is None or not interventions.in_force:
            return NEUTRAL
        return await interventions.treatment(caller, takes_seat=False)

    async def _hold_for(self, batch: KeptBatch, caller: Caller, treatment: Treatment) -> Hold:
        """Hold for a batch, once more where its person was topped up for it. Raises what `Ledger.hold` does; LedgerUnavailable."""
        try:
            return await self._hold(batch)
        except Refusal as refusal:
            interventions = self._interventions()
            if interventions is None or not treatment.topup_nanocredits or refusal.code not in BUDGET_CODES:
                raise
            if not await interventions.top_up(caller, treatment, refusal):
                raise
            try:
                return await self._hold(batch)
            except Refusal:  # what was given does not suffice, which is not the caller's to mend
                raise refusal from None

    async def _hold(self, batch: KeptBatch) -> Hold:
        """Raises what `Ledger.hold` does; LedgerUnavailable."""
        bound = batch.bound_nanocredits
        try:
            return await self._holds.ledger.hold(batch.path, batch.hold_id, want_nanocredits=bound, least_nanocredits=bound)
        except Refusal as refusal:
            name_unit(refusal, batch.price)
            raise
        except (LedgerUnavailable, asyncio.CancelledError):
            if self._holds.has_time:  # it may have been made all the same; if this does not come to pass, it expires
                self._holds.in_background(self._void(batch))
            raise

    async def _begin(self, concern: Concern, batch: KeptBatch, endpoint: Endpoint) -> Fetched | Expected:
        """Note the batch down, forward it, and note its id down: a crash in between leaves what the settler can find."""
        is_sent = False

        def sent() -> None:
            nonlocal is_sent
            is_sent = True

        try:
            await self._records.open(batch)
            answer = await self._forward(concern, endpoint, sent=sent, timeout_s=CREATION_TIMEOUT_S)
            if answer.status >= 500 or answer.status == _UNCERTAIN_STATUS:
                return answer
            if answer.status >= 400:
                await self._call_off(batch)
                return answer
            batch_id = openai_batches.read_id(answer.meaning)
            if batch_id is None:
                return UpstreamError(f"The upstream {endpoint.name} did not name the batch that it began.")
            await self._records.open(msgspec.structs.replace(batch, batch_id=batch_id))
        except Expected as failure:
            if not is_sent:
                await self._call_off(batch)
            return failure
        return answer

    async def _call_off(self, batch: KeptBatch) -> None:
        with contextlib.suppress(Failure):  # the settler finds that it never began
            await self._settler.call_off(batch)

    async def _void(self, batch: KeptBatch) -> None:
        with contextlib.suppress(Expected):
            await self._holds.ledger.void(batch.path, batch.hold_id)

    async def _show_batch(self, concern: Concern) -> web.StreamResponse:
        """Forward what the upstream says of a batch, settled first where it has ended."""
        batch = await self._records.batch(concern.caller.path, concern.id)
        if batch is None:
            raise _not_yours("batch", concern.id)
        endpoint = self._endpoint(concern, batch.upstream)
        concern.visit.model = batch.input.model
        answer = await self._forward(concern, endpoint)
        state = openai_batches.read_batch(answer.meaning) if answer.status < 400 else None
        if state is not None and state.has_ended:
            await self._settler.settle(batch, endpoint, state)
        return self._shown(concern, answer)

    # --- both --------------------------------------------------------------------------------------------------------------------

    def _endpoint(self, concern: Concern, name: str) -> Endpoint:
        endpoint = self._admission().endpoint(name)
        concern.visit.pool = endpoint.name
        return endpoint

    async def _forward(
        self, concern: Concern, endpoint: Endpoint, *, sent: Callable[[], None] = lambda: None, timeout_s: float | None = None
    ) -> Fetched:
        operation, asked = concern.asked.operation, concern.asked
        concern.visit.pool = endpoint.name
        content_type = concern.request.headers.get("Content-Type", JSON) if operation.passes_content_type else JSON
        return await fetching.fetch(
            endpoint,
            operation.method,
            operation.path_to(concern.id),
            content_type=content_type,
            passing=concern.passing,
            body=asked.body,
            sent=sent,
            timeout_s=timeout_s,
        )

    def _shown(self, concern: Concern, answer: Fetched) -> web.Response:
        if answer.status >= 400:
            concern.visit.outcome = "upstream_error"
            answers.spare_waiting(answer.headers)
        answers.add_budget(answer.headers, None, request_id=concern.visit.request_id, now_ms=self._now_ms())
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)


def _not_yours(kind: str, name: str) -> Refusal:
    return Refusal("not_found", f"There is no {kind} {name!r} of this account.", hint="Use an id that was answered to the same account.")
