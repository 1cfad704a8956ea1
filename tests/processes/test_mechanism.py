"""The parts that processes are kept with: the shared port, the channel, periodic jobs, the log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator

import pytest

from proxy.errors import LedgerUnavailable, SetupError
from proxy.processes import logs
from proxy.processes.channel import Channel, ChannelClosed
from proxy.processes.jobs import Job, beside, running
from proxy.processes.sockets import join_address, listen, reserve, split_address

# --- the shared port -----------------------------------------------------------------------------------------------------------------


def talk(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(b"x")


def test_several_workers_listen_on_a_reserved_port() -> None:
    """Port 0 is chosen once; each worker has a socket of its own, and the one that only reserves takes no connection."""
    with reserve("127.0.0.1:0", spreads_by_kernel=True) as port, listen(port) as first, listen(port) as second:
        assert port.port != 0
        assert first.fileno() != second.fileno()
        for _ in range(20):
            talk(port.port)
        taken = 0
        for listening in (first, second):
            listening.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    listening.accept()[0].close()
                    taken += 1
        assert taken == 20


def test_elsewhere_workers_inherit_one_listening_socket() -> None:
    """Where the kernel does not spread connections, the parent's socket listens and its descriptor goes to the workers."""
    with reserve("127.0.0.1:0", spreads_by_kernel=False) as port:
        assert port.inherited_fd is not None
        talk(port.port)
        listening = listen(port)
        try:
            listening.accept()[0].close()
        finally:
            listening.detach()  # the parent's to close


@pytest.mark.parametrize("spreads_by_kernel", [True, False])
def test_a_port_that_another_program_has_is_refused(spreads_by_kernel: bool) -> None:
    """Also where that program would share it, for it is not ours."""
    with reserve("127.0.0.1:0", spreads_by_kernel=True) as port, listen(port):
        address = f"127.0.0.1:{port.port}"
        with (
            pytest.raises(SetupError, match=f"^cannot listen on {address}: Address already in use$"),
            reserve(address, spreads_by_kernel=spreads_by_kernel),
        ):
            pass


@pytest.mark.parametrize(
    ("address", "parts"), [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:80", ("::1", 80)), ("localhost:0", ("localhost", 0))]
)
def test_addresses_are_read_as_they_are_written(address: str, parts: tuple[str, int]) -> None:
    """IPv6 in brackets, there and back."""
    assert split_address(address) == parts
    assert join_address(*parts) == address


def test_an_unknown_host_is_one_clear_line() -> None:
    """The address stands in it."""
    with pytest.raises(SetupError, match=r"^cannot listen on no\.such\.host\.invalid:80: "), reserve("no.such.host.invalid:80"):
        pass


# --- the channel ---------------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def channels() -> AsyncIterator[tuple[Channel, Channel]]:
    pair = [await Channel.over(end) for end in socket.socketpair()]
    try:
        yield pair[0], pair[1]
    finally:
        for channel in pair:
            await channel.close()


async def test_messages_arrive_whole_and_in_order() -> None:
    """Whatever their size, and line breaks inside them."""
    async with channels() as (here, there):
        sent = [{"n": n, "text": "line\nbreak " * 10 ** (n % 6)} for n in range(12)]
        async with asyncio.TaskGroup() as group:
            received = group.create_task(_receive(there, len(sent)))
            for message in sent:
                await here.send(message)
        assert received.result() == sent


async def _receive(channel: Channel, count: int) -> list[object]:
    return [await channel.receive() for _ in range(count)]


async def test_the_end_of_the_other_side_is_told() -> None:
    """To who listens, also in the middle of a line, and to who speaks."""
    async with channels() as (here, there):
        there._writer.write(b'{"half"')
        await there.close()
        with pytest.raises(ChannelClosed):
            await here.receive()
        with pytest.raises(ChannelClosed):
            await asyncio.gather(*(here.send({"text": "x" * 1000}) for _ in range(1000)))


# --- jobs ----------------------------------------------------------------------------------------------------------------------------


async def test_a_job_goes_on_after_failures_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    """A failing dependency, or a bug, is a line when it begins and one when it is over."""
    caplog.set_level(logging.INFO)
    rounds = 0
    enough = asyncio.Event()

    async def act() -> None:
        nonlocal rounds
        rounds += 1
        if rounds >= 12:
            enough.set()
        if rounds in (2, 3, 4):
            raise LedgerUnavailable
        if rounds in (6, 7):
            raise ValueError("a bug")

    async with running(Job("the job", 0.001, act)), asyncio.timeout(5):
        await enough.wait()
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["the job: the ledger does not answer", "the job: works again", "the job failed", "the job: works again"]


async def test_a_job_ends_also_where_its_act_fails_while_it_is_ended() -> None:
    """As one does that tidies up with the help of what has just gone."""
    begun = asyncio.Event()

    async def act() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise LedgerUnavailable

    async with asyncio.timeout(10):
        async with running(Job("tidy", 3600, act)):
            await begun.wait()


async def test_jobs_end_with_their_context() -> None:
    """Also one that is at work."""
    working = asyncio.Event()

    async def act() -> None:
        working.set()
        await asyncio.Event().wait()

    async with running(Job("stuck", 1.0, act)):
        await working.wait()
    assert len(asyncio.all_tasks()) == 1


async def test_what_fails_beside_the_body_ends_it_with_its_own_error() -> None:
    """The body is cancelled, and the error comes as it is, not in a group."""

    async def fail() -> None:
        raise SetupError("no")

    with pytest.raises(SetupError, match=r"^no$"):
        async with beside(fail()):
            await asyncio.Event().wait()


async def test_the_bodys_own_error_comes_as_it_is() -> None:
    """Who runs something beside the body need not know of groups to catch what the body raises."""
    with pytest.raises(SetupError, match=r"^no$"):
        async with beside(asyncio.sleep(100)):
            raise SetupError("no")


# --- the log -------------------------------------------------------------------------------------------------------------------------


def test_a_message_stays_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a caller puts into what is logged, it cannot forge a line."""
    handlers, level = logging.root.handlers[:], logging.root.level
    try:
        logs.set_up(verbose=False)
        logging.getLogger("proxy.somewhere").warning("model %s", "a\nERROR forged\r")
        logging.getLogger("proxy.server.handler").info("one of many requests")
        logs.set_up(verbose=True)
        logging.getLogger("proxy.server.handler").info("a request")
    finally:
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
        for name in ("proxy", "proxy.server"):
            logging.getLogger(name).setLevel(logging.NOTSET)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith(" WARNING proxy.somewhere: model a\\nERROR forged\\r")
    assert lines[1].endswith(" INFO proxy.server.handler: a request")
