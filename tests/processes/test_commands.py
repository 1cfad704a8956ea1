"""The other commands as real processes: audit, check, wrong usage."""
# ruff: noqa: ASYNC240 - what is waited for happens in another process

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest

from proxy.cli import main
from tests.support.ledger_server import LedgerServer
from tests.support.program import Begin, run, serve
from tests.support.running_proxy import (
    READY,
    configuration,
)


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
    program = Path(__file__).parents[2] / "proxy" / "__main__.py"
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
