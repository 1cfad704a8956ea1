"""The simulated endpoint's server: seats, pace and HTTP. What is said and how it is phrased stands in `model` and `answers`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

import msgspec
from aiohttp import web

from proxy.simulation import answers
from proxy.simulation.model import Ask, Operation, SimulatedModel, Unreadable, read

WAITING_MAX: Final = 4096
"""Requests that may wait for a seat; one more is told to come back."""
BODY_MAX_BYTES: Final = 32 * 2**20
UNPACED_BATCH: Final = 16
"""Without a pace, words sent before others get their turn."""
PATHS: Final[dict[str, Operation]] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/v1/embeddings": "embeddings",
}


class SimulatedEndpoint:
    """A running endpoint; `base_url` is what goes into an upstream's configuration."""

    def __init__(self, models: Iterable[SimulatedModel]) -> None:
        self.models = {model.name: model for model in models}
        self.base_url = ""
        self.generated_tokens = 0
        """Output tokens generated so far, heard by someone or not."""
        self._seats = {model.name: asyncio.Semaphore(model.seats) for model in self.models.values()}
        self._waiting = 0

    def application(self) -> web.Application:
        application = web.Application(client_max_size=BODY_MAX_BYTES)
        application.router.add_get("/v1/models", self._list)
        for path in PATHS:
            application.router.add_post(path, self._generate)
        return application

    async def _list(self, request: web.Request) -> web.Response:
        return web.Response(body=answers.models(self.models), content_type="application/json")

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        try:
            ask = read(PATHS[request.path], msgspec.json.decode(await request.read()))
        except (Unreadable, msgspec.DecodeError) as problem:
            return _refused(400, str(problem), "invalid_request")
        model = self.models.get(ask.model)
        if model is None:
            return _refused(404, f"there is no model {ask.model!r}", "model_not_found")
        if self._waiting >= WAITING_MAX:
            return _refused(429, "too many requests are waiting", "rate_limit_exceeded")
        self._waiting += 1
        try:
            await self._seats[model.name].acquire()
        finally:
            self._waiting -= 1
        try:
            return await self._answer(request, ask, model)
        finally:
            self._seats[model.name].release()

    async def _answer(self, request: web.Request, ask: Ask, model: SimulatedModel) -> web.StreamResponse:
        count = 0 if ask.operation == "embeddings" else min(ask.tokens or model.answer_tokens, model.answer_tokens)
        pace = _Pace(model)
        if not ask.stream:
            await pace.until(count)
            self.generated_tokens += count * ask.choices
            return web.Response(body=answers.whole(ask, count), content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        await response.write(answers.opening(ask))
        for position, data in enumerate(answers.steps(ask, count)):
            await pace.until(position)
            self.generated_tokens += ask.choices
            await response.write(data)
        await response.write(answers.closing(ask, count))
        await response.write_eof()
        return response


class _Pace:
    """When each word of an answer is due, counted from the seat; a late word does not delay the others."""

    def __init__(self, model: SimulatedModel) -> None:
        self._loop = asyncio.get_running_loop()
        self._starts_at_s = self._loop.time() + model.first_token_s
        self._tokens_per_s = model.tokens_per_s

    async def until(self, position: int) -> None:
        due_at_s = self._starts_at_s + (position / self._tokens_per_s if self._tokens_per_s else 0)
        wait_s = due_at_s - self._loop.time()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        elif position % UNPACED_BATCH == 0:
            await asyncio.sleep(0)


@asynccontextmanager
async def simulated_endpoint(
    models: Iterable[SimulatedModel], *, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[SimulatedEndpoint]:
    """A simulated endpoint that listens until the block ends; port 0 is one of the system's choice."""
    endpoint = SimulatedEndpoint(models)
    # Without cancellation a hang-up would keep its seat until the next word is due.
    runner = web.AppRunner(endpoint.application(), handler_cancellation=True, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=1024).start()
        endpoint.base_url = f"http://{host}:{runner.addresses[0][1]}"
        yield endpoint
    finally:
        await runner.cleanup()


def _refused(status: int, message: str, code: str) -> web.Response:
    return web.Response(status=status, body=answers.error(message, code=code), content_type="application/json")
