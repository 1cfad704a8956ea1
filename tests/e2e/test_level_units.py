"""Budgets in units of a level on a whole deployment: the real ledger, two workers, the admin API, the journal and the audit."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from tests.support import openai_answers as answers
from tests.support.deployment import Caller, Deployment, until
from tests.support.scripted_upstream import ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT = "/v1/chat/completions"
HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 10}
PRICES = {"model": "leveled", "input": "1", "output": "5", "level": "small", "effective": "2026-01-01"}


async def cost(caller: Caller) -> Decimal:
    """What one request costs, by the header; 0 where it was refused, which costs nothing."""
    async with caller.post(CHAT, HELLO) as answer:
        await answer.read()
        return Decimal(answer.headers.get("X-Ledger-Cost", "0"))


async def until_it_costs(caller: Caller, amount: Decimal) -> None:
    """On whichever worker: so often in a row that all were asked."""
    await until(lambda: asyncio.gather(*(cost(caller) for _ in range(6))), lambda costs: set(costs) == {amount})


async def test_a_budget_in_units_keeps_its_worth_while_prices_fall(deployment: Deployment, upstream: ScriptedUpstream) -> None:
    """The journal names the index; a cheaper model of the level counts for every worker within a second, and the books balance."""
    upstream.automatic = answers.generating(input_tokens=30, output_tokens=10)
    await deployment.admin("POST", "prices", PRICES)
    await deployment.admin("PUT", "plans/units", {"unit": "small", "limits": [{"credits": "1", "window": "ever"}]})
    caller = await deployment.open_account(plan="units")
    in_credits = await deployment.open_account("1")
    nominal = await cost(in_credits)
    await until_it_costs(caller, nominal / 2)  # the index is 2
    await deployment.admin("POST", "prices", {**PRICES, "model": "leveled-cheaper", "input": "0.1", "output": "0.5"})
    assert (await deployment.admin("GET", "levels/small"))["index"] == "0.2"
    await until_it_costs(caller, nominal * 5)
    assert await cost(in_credits) == nominal

    account: dict[str, Any] = await deployment.account(caller.id)
    journal = await deployment.admin("GET", f"accounts/{caller.id}/journal?limit=500")
    memos = [entry["memo"] for entry in journal["items"] if entry["verb"] == "settle"]
    assert memos[0].endswith("level:small@0.2")
    assert memos[-1].endswith("level:small@2")
    by_index = {index: sum(memo.endswith(f"@{index}") for memo in memos) for index in ("2", "0.2")}
    assert Decimal(account["spent"]) == by_index["2"] * nominal / 2 + by_index["0.2"] * nominal * 5
    assert (account["unit"], account["held"]) == ("small", "0")
    code, output = await deployment.audit()
    assert code == 0, output
