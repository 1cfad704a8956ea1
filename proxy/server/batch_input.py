"""What a file of requests asks for: read line by line as strictly as each of them would be, priced as a batch, for one upstream."""

from __future__ import annotations

import asyncio

from proxy.dialects import Request, openai_batches
from proxy.domain import AMOUNT_MAX_NANOCREDITS, Caller
from proxy.errors import Refusal
from proxy.ledger.batches import BatchInput
from proxy.policy.pricing import BatchBill
from proxy.server import fetching
from proxy.server.admission import Admission, Asked
from proxy.server.batch_settling import OPERATIONS
from proxy.server.upstream import Endpoint

LINES_AT_ONCE = 32
"""Lines of a file that are read before others have their turn."""


async def read_input(admission: Admission, caller: Caller, content: bytes) -> tuple[BatchInput, Endpoint]:
    """What the requests of a file ask for together, and the one upstream for them.

    Raises Refusal: invalid_request, model_not_allowed, model_not_found, model_not_priced.
    """
    first: Asked | None = None
    lines = counted = 0
    for line in openai_batches.read_lines(content):
        inquiry = Request(OPERATIONS[line.url], line.body)
        try:
            if first is None:
                first = admission.read(fetching.DIALECT, inquiry)
                endpoint, price = first.endpoints[0], admission.price_in_batch(caller, first)
                bill = BatchBill(price)
            call = fetching.DIALECT.parse_request(inquiry, endpoint.media)
            openai_batches.check_in_batch(call)
            _check_model(call.model, first, endpoint)
        except Refusal as refusal:
            raise Refusal(refusal.code, f"Line {line.number} of the file: {refusal.message}", hint=refusal.hint) from None
        maximum = endpoint.section.output_tokens_max if call.output_tokens_max is None else call.output_tokens_max
        bill.add_at_most(input_tokens=call.input_tokens_bound, output_tokens=maximum * call.choices)
        counted += call.input_tokens_counted
        lines += 1
        if lines % LINES_AT_ONCE == 0:
            await asyncio.sleep(0)
    assert first is not None, "a file without a line is refused"
    bound = bill.nanocredits
    if bound > AMOUNT_MAX_NANOCREDITS:
        raise Refusal("invalid_request", "The file may cost more than any account can hold.", hint="Divide it, or lower the maxima.")
    return BatchInput(line.url, first.call.model, lines, counted, bound, price), endpoint


def _check_model(model: str, first: Asked, endpoint: Endpoint) -> None:
    """See that a line means the one model of its file, by the upstream's own name. Raises Refusal invalid_request."""
    if model != first.call.model:
        raise Refusal("invalid_request", f"it asks for {model!r}, others for {first.call.model!r}.", hint="Make a file for each model.")
    if endpoint.aliases.get(model, model) != model:
        own_name = endpoint.aliases[model]
        raise Refusal("invalid_request", f"{model!r} is an alias, which files cannot use.", hint=f"Name the model {own_name}.")
