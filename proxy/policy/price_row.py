"""A row of the price book as the configuration file says it, in TOML. Knows the file's keys and nothing of the file."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Sequence

from proxy.domain import Price, Tier, credits_from_nanocredits
from proxy.policy.pricing import TOKEN_KINDS

RATE_KINDS = ("input", "output", *(kind for kind in TOKEN_KINDS if kind not in ("input", "output")))
UNIT_KINDS = ("image", "character", "tool_use", "second", "megabyte")
"""What a row prices each, beside the request itself."""
KINDS = RATE_KINDS + UNIT_KINDS
_DAY_MS = 86_400_000


def row_to_add(model: str, needs: Sequence[Sequence[str]], *, in_batch: bool = False, level: str | None = None) -> str:
    """The row that a model, or a level, lacks, with the rates left open: all the kinds of the first set of its needs."""
    kinds = needs[0] if needs else ("request",)
    batch = ["batch_percent = 50"] if in_batch else []
    named = [f"level = {_quoted(level)}"] if level is not None else []
    return "\n".join(["[[price]]", f"model = {_quoted(model)}", *(f'{kind} = "..."' for kind in kinds), *batch, *named])


def row_toml(price: Price) -> str:
    """A row, such that reading it back gives the same one."""
    lines = ["[[price]]", f"model = {_quoted(price.model)}"]
    if price.effective_at_ms:
        lines.append(f"effective = {_moment(price.effective_at_ms)}")
    lines += _rates(price, KINDS)
    if price.request:
        lines.append(f'request = "{credits_from_nanocredits(price.request)}"')
    if price.batch_percent is not None:
        lines.append(f"batch_percent = {price.batch_percent}")
    if price.level is not None:
        lines.append(f"level = {_quoted(price.level)}")
    for tier in price.tiers:
        lines += ["[[price.tier]]", f"above_input_tokens = {tier.above_input_tokens}", *_rates(tier, RATE_KINDS)]
    return "\n".join(lines)


def _rates(row: Price | Tier, kinds: Sequence[str]) -> Iterator[str]:
    for kind in kinds:
        amount_nanocredits: int | None = getattr(row, kind)
        if amount_nanocredits is not None:
            yield f'{kind} = "{credits_from_nanocredits(amount_nanocredits)}"'


def _moment(at_ms: int) -> str:
    moment = dt.datetime(1970, 1, 1) + dt.timedelta(milliseconds=at_ms)
    return f"{moment:%Y-%m-%d}" if at_ms % _DAY_MS == 0 else moment.isoformat(timespec="milliseconds") + "Z"


def _quoted(text: str) -> str:
    """A basic string of TOML, which is one of JSON's but for the one control character that JSON leaves alone."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
