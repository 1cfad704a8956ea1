"""Parent and workers as real processes whose configuration changes."""
# ruff: noqa: ASYNC240 - what is waited for happens in another process

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import aiohttp

from tests.support.program import COST_OF_EIGHT_TOKENS, Begin, rest_of, serve, stream
from tests.support.running_proxy import (
    configuration,
    until,
)

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
        await until(lambda line=line: line in proxy.said)
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
