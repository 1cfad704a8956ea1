"""The operator verbs against a real admin listener: what they print, what they change, how they fail."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import io
import json
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from proxy.cli.operator import add_operator_commands, limit
from proxy.cli.operator.client import TOKEN_VARIABLE, URL_VARIABLE
from proxy.cli.operator.limits import written
from proxy.cli.operator.prices import KINDS
from proxy.cli.operator.tables import table
from proxy.domain import AccountId
from proxy.ledger import Store
from proxy.policy.price_row import KINDS as ROW_KINDS
from tests.server.admin.bench import CREDIT, SECRETS, Health, listen, open_store
from tests.support.ledger_server import LedgerServer


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def table(self) -> list[list[str]]:
        """The lines, split where two spaces or more are."""
        return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in self.out.splitlines()]


Command = Callable[..., Awaitable[Done]]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="compute-ledger")
    add_operator_commands(parser.add_subparsers(required=True))
    return parser


def execute(line: str) -> int:
    try:
        arguments = parser().parse_args(shlex.split(line))
    except SystemExit as exit:
        return int(exit.code or 0)
    return int(arguments.run(arguments))


@pytest.fixture
async def store(ledger_server: LedgerServer) -> AsyncIterator[Store]:
    async with open_store(ledger_server) as store:
        yield store


@pytest.fixture
async def address(store: Store) -> AsyncIterator[str]:
    async with listen(store, Health()) as base:
        yield base


@pytest.fixture
def command(address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run one command line as an owner."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(URL_VARIABLE, address)
    monkeypatch.setenv(TOKEN_VARIABLE, SECRETS["owner"])

    async def run(line: str, *, code: int = 0) -> Done:
        capsys.readouterr()
        ended = await asyncio.to_thread(execute, line)
        captured = capsys.readouterr()
        assert ended == code, captured.err
        return Done(ended, captured.out, captured.err)

    return run


async def test_accounts_are_made_shown_changed_and_listed(command: Command) -> None:
    """The life of an account, as a person reads it."""
    await command("account create org:acme --limit 100/month@Europe/Berlin:full --label city=Berlin")
    shown = await command("account create user:ann --parent org:acme --weight 3 --reason 'new colleague'")
    assert shown.table[:3] == [["user:ann"], ["path", "org:acme > user:ann"], ["status", "active"]]
    assert ["available", "5 credits"] in shown.table
    assert shown.table[-1][:2] == ["5/day", "5"]
    listed = await command("account list")
    assert listed.table[0] == ["ACCOUNT", "KIND", "PLAN", "STATUS", "WEIGHT", "AVAILABLE", "HELD", "SPENT", "LIMITS"]
    assert [row[0] for row in listed.table[1:]] == ["org:acme", "user:ann"]
    assert listed.table[1][-1] == "100/month@Europe/Berlin:full"
    for verb, status in (("suspend", "suspended"), ("resume", "active"), ("close", "closed")):
        changed = await command(f"account {verb} user:ann --json")
        assert changed.json["status"] == status
    assert (await command("account list --status closed --json")).json["items"][0]["id"] == "user:ann"
    await command("account set org:acme --weight 9 --label a=1 --label b=2")
    account = (await command("account show org:acme --json")).json
    assert (account["weight"], account["labels"]) == (9, {"a": "1", "b": "2"})


async def test_keys_are_made_once_listed_and_revoked(command: Command) -> None:
    """The key alone is on standard output, so that a script can take it."""
    await command("account create user:ann")
    made = await command("key create user:ann")
    assert made.out.startswith("cl-")
    assert len(made.out.strip()) == 46
    key_id = made.err.partition(":")[0]
    assert "not shown again" in made.err
    assert (await command("key list user:ann")).table[1][0] == key_id
    assert "revoked since" in (await command(f"key revoke {key_id} --reason lost")).out
    assert (await command("key list user:ann")).table[1][2].endswith("Z")
    first = (await command("key create user:ann --idempotency-key k --json")).json
    assert (await command("key create user:ann --idempotency-key k --json")).json == {**first, "key": None}


async def test_credits_are_granted_moved_and_corrected(command: Command) -> None:
    """Exactly, to the last place, negative amounts included."""
    for name in ("user:ann", "user:bob"):
        await command(f"account create {name}")
    grant = (await command("grant add user:ann 20.000000001 --reason bonus --end 2099-01-01T00:00:00Z --priority -2 --json")).json
    assert (grant["credits"], grant["priority"], grant["expires_at"]) == ("20.000000001", -2, "2099-01-01T00:00:00Z")
    await command("adjust user:ann 1.5 --reason forgotten")
    assert "changed by -0.25 credits" in (await command("adjust user:ann -0.25 --reason 'too much'")).out
    assert "6.5 credits went from user:ann to user:bob" in (await command("transfer user:ann user:bob 6.5 --reason lunch")).out
    account = (await command("account show user:ann --json")).json
    assert (account["spent"], account["given"], account["available"]) == ("1.25", "6.5", "17.250000001")
    assert grant["grant_id"] in (await command("grant list user:ann")).out
    assert (await command(f"grant revoke user:ann {grant['grant_id']} --json")).json["remaining"] == "0"


async def test_loans_are_made_listed_and_forgiven(command: Command) -> None:
    """And what agents ask for, which is nothing yet."""
    for name in ("ann", "bob"):
        await command(f"account create {name}")
    made = await command("loan create ann bob 2.5 --due 2199-01-01T00:00:00Z --reason lunch")
    assert made.table[1][1:] == ["ann", "bob", "2.5", "0", "open", "2199-01-01 00:00Z", "lunch"]
    loan_id = made.table[1][0]
    assert (await command(f"loan show {loan_id}")).table == made.table
    assert (await command("loan list --account bob")).table == made.table
    assert (await command("loan list --json")).json["items"][0]["outstanding"] == "2.5"
    forgiven = await command(f"loan forgive {loan_id} --reason 'never mind'")
    assert forgiven.table[1][1:] == ["ann", "bob", "2.5", "0", "forgiven", "2199-01-01 00:00Z", "lunch"]
    assert (await command("request list ann")).table == [["REQUEST", "AGENT", "LIMITS", "AT", "REASON"], ["(none)"]]


async def test_dividends_are_declared_and_followed(command: Command) -> None:
    """What is handed out, and how far it came."""
    await command("account create fund --limit 0/ever")
    await command("grant add fund 9 --reason tithes")
    made = await command("dividend create 6 --by weight --reason 'new year'")
    assert made.table[1][1:] == ["6", "weight", "counting", "0", "0", "0", "new year"]
    assert "tells how far it came" in made.err
    assert (await command(f"dividend show {made.table[1][0]}")).table == made.table
    assert (await command("dividend list")).table == made.table


async def test_limits_are_set_and_given_back_to_the_plan(command: Command) -> None:
    """As they are written, so they are shown."""
    await command("account create user:ann")
    shown = await command("limit set user:ann --limit 0.5/3600s --limit 10/week@Asia/Tokyo:capped=20")
    assert shown.table[0] == ["limits (its own)"]
    assert [row[0] for row in shown.table[2:]] == ["0.5/3600s", "10/week@Asia/Tokyo:capped=20"]
    shown = await command("limit set user:ann --from-plan")
    assert shown.table[0] == ["limits (of plan everyone)"]
    assert (await command("limit show user:ann --json")).json["items"][0]["credits"] == "5"


async def test_a_plan_keeps_what_a_change_does_not_name(command: Command) -> None:
    """`plan set` reads the plan first, because a PUT takes the whole of it."""
    await command("plan set gold --limit 50/day --limit 5/hour --weight 4 --transfers --model 'gpt-*' --model llama3")
    before = (await command("plan show gold --json")).json
    after = (await command("plan set gold --weight 5 --json")).json
    assert after == {**before, "weight": 5}
    after = (await command("plan set gold --no-limits --no-transfers --json")).json
    assert after == {**before, "weight": 5, "limits": [], "transfers": False}
    after = (await command("plan set gold --requests-per-minute 60 --concurrent-requests 7 --json")).json
    assert (after["requests_per_minute"], after["concurrent_requests"], after["weight"]) == (60, 7, 5)
    after = (await command("plan set gold --requests-per-minute 0 --json")).json
    assert (after["requests_per_minute"], after["concurrent_requests"]) == (None, 7)
    assert [row[0] for row in (await command("plan list")).table] == ["PLAN", "everyone", "gold"]


async def test_levels_are_listed_and_shown(command: Command) -> None:
    """With the index, the models of each and how it moved; and what counts in units of one says so."""
    await command("price add a --input 1 --output 5 --level small --effective 2025-01-01")
    await command("price add b --input 0.1 --output 0.5 --level small --effective 2026-01-01")
    assert (await command("plan set units --unit small --limit 2/day --json")).json["unit"] == "small"
    assert (await command("plan set units --weight 3 --json")).json["unit"] == "small"
    listed = await command("level list")
    assert listed.table == [
        ["LEVEL", "INDEX", "SINCE", "MODEL", "MODELS", "PLANS"],
        ["small", "0.2", "2026-01-01 00:00Z", "b", "2", "units"],
    ]
    shown = await command("level show small")
    assert ["index", "0.2 credits a unit"] in shown.table
    assert ["2025-01-01 00:00Z", "2", "a"] in shown.table
    assert ["b", "0.2", "2026-01-01 00:00Z"] in shown.table
    assert ["units", "3", "small", "2/day", "*", "no", "-", "-"] in (await command("plan list")).table
    created = await command("account create user:ann --plan units")
    assert ["available", "2 units of small"] in created.table
    refused = await command("account set user:ann --plan everyone", code=1)
    assert "counts in units of level 'small'" in refused.err
    await command("account create user:bob")
    assert [row[:4] for row in (await command("account list")).table] == [
        ["ACCOUNT", "KIND", "PLAN", "UNIT"],
        ["user:ann", "account", "units", "small"],
        ["user:bob", "account", "everyone", "credits"],
    ]


async def test_prices_are_added_and_listed(command: Command) -> None:
    """Only kinds that some row prices have a column; a row without a date begins now."""
    await command("price add gpt-4o-mini --input 0.15 --cached-input 0.075 --output 0.6 --effective 2026-01-01")
    listed = await command("price list")
    assert listed.table[0] == ["MODEL", "FROM", "INPUT", "OUTPUT", "CACHED_INPUT", "LEVEL", "SOURCE"]
    assert listed.table[2][:2] == ["gpt-4o-mini", "2026-01-01 00:00Z"]
    now = (await command("price add flux --image 0.04 --json")).json
    assert now["effective"] > "2026-01-01"
    assert len((await command("price list --model flux --json")).json["items"]) == 2


async def test_a_price_with_tiers_is_added_and_listed_as_it_is_written(command: Command) -> None:
    """Every kind has its option, and tiers a column where some row has them."""
    assert set(KINDS) == {*ROW_KINDS, "request"}
    await command(
        "price add gemini-pro --input 1.25 --output 10 --tier 200000:input=2.5,output=15 --tier 500000:cached_input=0.3 --tool-use 0.01"
    )
    listed = await command("price list --model gemini-pro")
    assert listed.table[0] == ["MODEL", "FROM", "INPUT", "OUTPUT", "TOOL_USE", "LEVEL", "TIERS", "SOURCE"]
    assert listed.table[2][-2:] == ["200000:input=2.5,output=15 500000:cached_input=0.3", "api"]
    for odd in ("200000", "x:input=1", "1:input", "1:image=2", "1:input=1,input=2"):
        await command(f"price add m --input 1 --tier {odd}", code=2)
    refused = await command("price add m --input 1 --tier 2:input=1 --tier 1:input=2", code=1)
    assert "the tiers must rise" in refused.err


async def test_a_price_may_say_what_batches_cost(command: Command) -> None:
    """Then the list shows it."""
    await command("price add tiny --input 1 --output 2 --batch-percent 50 --effective 2026-01-01")
    listed = await command("price list --model tiny")
    assert listed.table[0] == ["MODEL", "FROM", "INPUT", "OUTPUT", "BATCH_PERCENT", "LEVEL", "SOURCE"]
    assert listed.table[2][-3:] == ["50", "-", "api"]


async def test_imported_prices_are_added_once(command: Command) -> None:
    """A repeat adds nothing; what is there with another price stays, and is told."""
    await command("price add gpt-4o-mini --input 9 --output 9 --effective 1970-01-01")
    line = "price import --apply --model o3 --model gemini-2.5-pro --model gpt-4o-mini --model gpt-4"
    done = await command(line)
    assert done.out == "4 added, 0 there already, 1 there with another price\n"
    assert "gpt-4o-mini from 1970-01-01T00:00:00Z: has another price or level already, which stays" in done.err
    leveled = await command("price import --apply --model gemini-2.0-flash-lite --level small")
    assert leveled.out == "1 added, 0 there already, 0 there with another price\n"
    assert [row[0] for row in (await command("level list")).table] == ["LEVEL", "small"]
    assert (await command("price import --apply --model gemini-2.0-flash-lite")).out.startswith("0 added, 1 there already, 0")
    assert (await command("price import --apply --model gemini-2.0-flash-lite --level large")).out.startswith("0 added, 0 there already, 1")
    prices = (await command("price list --json")).json["items"]
    assert [(price["model"], price["input"]) for price in prices if price["model"] in ("o3", "gpt-4o-mini")] == [
        ("gpt-4o-mini", "9"), ("o3", "10"), ("o3", "2"),
    ]  # fmt: skip
    [tiered] = [price for price in prices if price["tiers"]]
    assert (tiered["model"], tiered["tiers"][0]["above_input_tokens"], tiered["tiers"][0]["output"]) == ("gemini-2.5-pro", 200_000, "15")
    assert (await command(line)).out == "0 added, 4 there already, 1 there with another price\n"
    assert (await command("price list --json")).json["items"] == prices


async def test_the_journal_tells_what_each_entry_came_to(command: Command, store: Store) -> None:
    """Newest first; CSV has every posting."""
    await command("account create user:ann")
    path = (AccountId("user:ann"),)
    await store.ledger.hold(path, "h1", want_nanocredits=CREDIT, least_nanocredits=0)
    held = await command("hold list user:ann")
    assert held.table[1][:4] == ["h1", "user:ann", "1", "0"]
    await store.ledger.settle(path, "h1", spent_nanocredits=CREDIT // 4, memo="llama3")
    rows = (await command("journal user:ann")).table
    assert rows[0] == ["TIME", "VERB", "CREDITS", "HERE", "MEMO", "ID"]
    assert [row[1:] for row in rows[1:]] == [
        ["settle", "0.25", "spent 0.25 (day/UTC)", "llama3", "h1"],
        ["hold", "1", "held 1 (day/UTC)", "-", "h1"],
    ]
    one = await command("journal user:ann --limit 1")
    assert len(one.table) == 2
    assert "there are more" in one.err
    exported = list(csv.DictReader(io.StringIO((await command("journal user:ann --csv")).out)))
    assert {row["verb"] for row in exported} == {"hold", "settle"}


async def test_the_audit_log_tells_changes(command: Command) -> None:
    """Who changed what, from what, to what, and why."""
    await command("account create user:ann")
    await command("account set user:ann --weight 4 --reason promoted")
    row = (await command("event list")).table[1]
    assert row[1:] == ["owner-1", "account.change", "user:ann", "promoted", "weight 1 > 4"]


async def test_long_lists_are_followed_and_bounded(command: Command, store: Store) -> None:
    """Every page up to `--max`, and a note when there is more."""
    names = [AccountId(f"user:{n:04}") for n in range(520)]
    await asyncio.gather(*(store.directory.create_account(name, operation_id=name) for name in names))
    listed = await command("account list")
    assert len(listed.table) == 521
    assert listed.err == ""
    listed = await command("account list --max 510 --json")
    assert (len(listed.json["items"]), listed.json["next"]) == (510, "user:0509")
    assert "there are more" in (await command("account list --max 5")).err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("account show nobody", "there is no account 'nobody'"),
        ("account create 'a b'", "id: must be 1 to 128"),
        ("account create user:x --plan none", "there is no plan 'none'"),
        ("limit set user:ann --limit 5/fortnight", "limits[0].window"),
        ("transfer user:ann user:bob 100 --reason x", "available: 5"),
        ("grant add user:ann -5 --reason x", "credits: must be more than 0"),
        ("grant add user:ann lots --reason x", "credits: must be an amount"),
        ("adjust user:ann -1 --reason x", "has spent less than that; give back no more"),
        ("account show ''", "there is nothing at this path"),
        ("account show 'a/b'", "{id}"),
        ("key revoke key_none", "there is no key"),
        ("journal nobody --csv", "there is no account"),
    ],
)
async def test_a_refusal_is_one_clear_line_and_exit_code_1(command: Command, line: str, said: str) -> None:
    """On standard error, with the hint; nothing on standard output."""
    for name in ("user:ann", "user:bob"):
        await command(f"account create {name}")
    ended = await command(line, code=1)
    assert ended.out == ""
    assert ended.err.startswith("compute-ledger: ")
    assert ended.err.count("\n") == 1
    assert said in ended.err


@pytest.mark.parametrize(
    "line",
    [
        "account", "account frobnicate", "account create", "grant add user:ann 5", "limit set user:ann", "account create a --limit 5",
        "limit set user:ann --limit 5/day --from-plan", "account create a --label x", "account list --max 0", "journal a --limit x",
    ],
)  # fmt: skip
async def test_wrong_usage_is_exit_code_2(command: Command, line: str) -> None:
    """Nothing is sent."""
    assert "usage: " in (await command(line, code=2)).err


async def test_a_role_that_may_not_says_so(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the role that is needed."""
    monkeypatch.setenv(TOKEN_VARIABLE, SECRETS["viewer"])
    assert "role operator" in (await command("account create user:ann", code=1)).err
    monkeypatch.setenv(TOKEN_VARIABLE, "some-other-token-entirely")
    assert "admin token" in (await command("account list", code=1)).err


async def test_the_token_may_stand_in_the_data_directory(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where `serve` keeps the token that it made; without one the remedy is named."""
    monkeypatch.delenv(TOKEN_VARIABLE)
    assert TOKEN_VARIABLE in (await command("plan list", code=1)).err
    (tmp_path / "ledger-data").mkdir()
    (tmp_path / "ledger-data" / "admin-token").write_text(SECRETS["owner"] + "\n")
    await command("plan list")


@pytest.mark.parametrize("url", ["ftp://x", "127.0.0.1:8081", "http://", "http://x:99999999", "http://user:secret@host", "http://x?y"])
async def test_a_url_that_cannot_be_is_named(command: Command, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Before anything is sent."""
    monkeypatch.setenv(URL_VARIABLE, url)
    assert URL_VARIABLE in (await command("plan list", code=1)).err


async def test_an_admin_api_that_is_not_there_is_named(command: Command, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int) -> None:
    """At once, with its address and how to set it."""
    monkeypatch.setenv(URL_VARIABLE, f"http://127.0.0.1:{unused_tcp_port}")
    said = (await command("plan list", code=1)).err
    assert f"127.0.0.1:{unused_tcp_port}" in said
    assert "compute-ledger serve" in said


@contextlib.asynccontextmanager
async def losing_answers(address: str, times: int) -> AsyncIterator[str]:
    """A way to the listener on which the first answers are lost after the request was carried out."""
    left = times
    host, port = address.removeprefix("http://").split(":")

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        request = await reader.readuntil(b"\r\n\r\n")
        length = next((int(line[16:]) for line in request.lower().split(b"\r\n") if line.startswith(b"content-length: ")), 0)
        far_writer.write(request + await reader.readexactly(length))
        answer = await far_reader.readuntil(b"\r\n\r\n")
        if left > 0:
            left -= 1
            writer.transport.abort()
        else:
            size = next((int(line[16:]) for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length: ")), 0)
            writer.write(answer + await far_reader.readexactly(size))
            await writer.drain()
        writer.close()
        far_writer.close()

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_lost_answer_is_asked_for_again_and_nothing_is_done_twice(
    command: Command, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """The same Idempotency-Key goes with each try; after three the command gives up."""
    await command("account create user:ann")
    async with losing_answers(address, times=2) as lossy:
        monkeypatch.setenv(URL_VARIABLE, lossy)
        await command("grant add user:ann 7 --reason gift")
        assert (await command("account show user:ann --json")).json["granted"] == "7"
    async with losing_answers(address, times=3) as lossy:
        monkeypatch.setenv(URL_VARIABLE, lossy)
        assert "cannot reach" in (await command("plan list", code=1)).err


async def test_a_server_that_is_not_the_admin_api_is_recognised(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a strange answer is taken for ours, and a redirect is not followed, for the token would go along."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 5\r\n\r\nhello")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        monkeypatch.setenv(URL_VARIABLE, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert "not the admin API's (HTTP 302)" in (await command("plan list", code=1)).err


@pytest.mark.parametrize(
    "text", ["5/day", "0.5/3600s", "100/month@Europe/Berlin", "10/day:full", "10/week@Asia/Tokyo:capped=20.5", "50/ever", "1/day@Etc/GMT+5"]
)
def test_a_limit_is_shown_as_it_is_written(text: str) -> None:
    """What the table shows can be pasted into `--limit`."""
    body = limit(text)
    assert written({"time_zone": "UTC", "rollover": "none", "rollover_max": None, **body}) == text


@pytest.mark.parametrize("text", ["", "5", "/day", "5/", "5/day@", "-5/day", "5/day:some", "5/day:capped", "5 /day", "5/Day", "5/day;x"])
def test_a_limit_that_cannot_be_read_is_wrong_usage(text: str) -> None:
    """Before anything is sent."""
    with pytest.raises(argparse.ArgumentTypeError):
        limit(text)


def test_numbers_stand_below_each_other_at_their_points() -> None:
    """A person compares amounts by eye."""
    drawn = table("NAME CREDITS# WHY", [("a", "1.25", "x"), ("bbbbb", "100", None), ("c", "0.000000001", "ok"), ("d", "unlimited", "")])
    assert drawn.splitlines() == [
        "NAME               CREDITS  WHY",
        "a              1.25         x",
        "bbbbb        100            -",
        "c              0.000000001  ok",
        "d      unlimited            -",
    ]


def test_an_empty_table_says_so() -> None:
    """Rather than leave a heading alone."""
    assert table("NAME CREDITS#", []) == "NAME  CREDITS\n(none)"


def test_what_is_printed_cannot_command_a_terminal() -> None:
    """A reason or an id from elsewhere is text, whatever it holds."""
    assert "\x1b" not in table("WHY", [("\x1b[2Jgone",)])


async def test_pools_are_listed_drained_and_opened(command: Command) -> None:
    """A line for each upstream with seats."""
    listed = await command("pool list")
    titles = ["POOL", "SEATS", "USED", "BACKLOG", "CALLERS", "LAG", "SERVED", "SPARE_USED", "SPARE_WAITING", "DRAINING"]
    assert listed.table == [titles, ["scarce", "2", "0", "0", "0", "0", "0", "0", "0", "no"]]
    assert (await command("pool drain scarce --reason 'new driver'")).table[1][-1] == "yes"
    assert (await command("pool show scarce --json")).json["draining"] is True
    assert (await command("pool open scarce --json")).json["draining"] is False
    assert "there is no pool 'plenty'" in (await command("pool show plenty", code=1)).err
