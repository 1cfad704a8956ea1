"""The nursery that workers are forked from: what they take along, and what happens when it dies."""
# ruff: noqa: ASYNC240 - what is waited for, and asked, are other processes

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp

from tests.support.program import Begin, assert_balanced, nothing_held, rest_of, run, serve, stream
from tests.support.running_proxy import RunningProxy, children_of, configuration, is_running, is_worker, until

SCRIPT = """
import asyncio, json, os, random, signal, socket, sys
from proxy.processes import nursery
from proxy.processes.nursery import NoBirth, Nursery

def work(channel_fd):
    with socket.socket(fileno=channel_fd) as channel:
        fds = {{int(fd): os.readlink("/proc/self/fd/" + fd) for fd in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + fd)}}
        channel.sendall(json.dumps({{"fds": fds, "chance": random.random()}}).encode())
        order = channel.recv(100)
    if order == b"fail":
        raise ValueError("a bug in a worker")
    if order == b"wait":
        signal.pause()
    return int(order)

async def bear(nursery, *more):
    ours, theirs = socket.socketpair()
    with theirs:
        child = await nursery.bear((theirs.fileno(), *more))
    return child, ours

async def main(workers):
{body}

with Nursery.forked(work) as workers:
    asyncio.run(main(workers))
"""


def script(body: str) -> subprocess.CompletedProcess[str]:
    """A parent of a nursery of its own, whose workers tell what they have, and then do as they are told."""
    text = SCRIPT.format(body="\n".join(f"    {line}" for line in body.splitlines()))
    return subprocess.run([sys.executable, "-W", "error", "-c", text], capture_output=True, text=True, timeout=50, check=False)


def test_how_a_worker_ended_is_told() -> None:
    """By itself, by a bug, whose trace is on standard error, or by a signal; as `subprocess` counts."""
    ended = script("""
for order in (b"0", b"3", b"fail", b"wait"):
    child, ours = await bear(workers)
    with ours:
        ours.recv(9999)
        ours.sendall(order)
        if order == b"wait":
            child.kill()
        await child.told.wait()
        print(child.status)
""")
    assert ended.stdout.split() == ["0", "3", "1", "-9"]
    assert ended.stderr.count("Traceback") == 1
    assert ended.stderr.endswith("ValueError: a bug in a worker\n")
    assert ended.returncode == 0


def test_a_worker_has_the_descriptors_that_it_was_given_under_their_numbers_and_no_others() -> None:
    """Also where the nursery got them under numbers that are taken; and chance begins anew in each."""
    ended = script("""
pipe = os.pipe()
high = os.dup2(pipe[0], 100)
for more in ((pipe[1],), (high, pipe[0], pipe[1])):
    child, ours = await bear(workers, *more)
    with ours:
        told = json.loads(ours.recv(9999))
        print(json.dumps([told, list(more), os.fstat(pipe[0]).st_ino]))
        ours.sendall(b"0")
        await child.told.wait()
""")
    assert ended.stderr == ""
    lives = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(lives) == 2
    for told, given, pipe in lives:
        sockets = [fd for fd, what in told["fds"].items() if what.startswith("socket:") and int(fd) > 2]
        assert len(sockets) == 1  # its channel
        assert told["fds"].pop("0") == "/dev/null"
        assert set(map(int, told["fds"])) - {1, 2} - set(map(int, sockets)) == set(given)
        assert {told["fds"][str(fd)] for fd in given} == {f"pipe:[{pipe}]"}
    assert lives[0][0]["chance"] != lives[1][0]["chance"]


def test_a_nursery_that_does_not_answer_is_given_up() -> None:
    """No worker is waited for without end; what it has borne lives on."""
    ended = script("""
child, ours = await bear(workers)
ours.recv(9999)
nursery.BIRTH_DEADLINE_S = 0.1
(pid,) = open(f"/proc/self/task/{os.getpid()}/children").read().split()
os.kill(int(pid), signal.SIGSTOP)
try:
    await bear(workers)
except NoBirth as error:
    print(error, workers.is_gone, child.told.is_set(), child.status)
ours.sendall(b"0")
print(ours.recv(100))
ours.close()
""")
    assert ended.stdout.splitlines() == ["the nursery does not answer True True None", "b''"]


def session_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[3])


def descriptors(pid: int) -> dict[int, str]:
    found = {}
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[int(fd.name)] = str(fd.readlink())
        except FileNotFoundError:  # a connection that has ended meanwhile
            continue
    return found


def shared_by(pids: list[int]) -> set[str]:
    """What more than one of them has open beyond what anybody has: standard output, standard error, and the system's own."""
    usual = {"/dev/null", *(descriptors(pids[0])[fd] for fd in (1, 2))}
    held = [{what for what in descriptors(pid).values() if not what.startswith("anon_inode:")} - usual for pid in pids]
    return {what for one, what_it_has in enumerate(held) for other in held[:one] for what in what_it_has & other}


async def kill_nursery(proxy: RunningProxy) -> None:
    """Kill it, and wait until the parent says that it is gone."""
    os.kill(proxy.nursery_pids()[0], signal.SIGKILL)
    await until(lambda: "the nursery of the workers is gone; they live on" in proxy.said)


async def replaced(proxy: RunningProxy, deaths: int, *, workers: int) -> None:
    async with asyncio.timeout(30):
        while True:
            metrics = await proxy.metrics()
            if (metrics["worker_restarts_total"], metrics["workers"]) == (deaths, workers):
                return
            await asyncio.sleep(0.01)


async def test_processes_share_nothing_but_the_ledgers_lifeline(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """Nobody holds an end of another's channel, so that each end is seen; also after deaths. Each is in a session of its own."""
    proxy = await serve(begin, file, configuration(upstream, data_dir, workers=2))
    (nursery,) = proxy.nursery_pids()
    assert "\nThreads:\t1\n" in Path(f"/proc/{nursery}/status").read_text()
    for deaths in range(3):
        await replaced(proxy, deaths, workers=2)
        workers = proxy.worker_pids()
        assert [session_of(pid) for pid in (nursery, *workers)] == [nursery, *workers]
        assert [descriptors(pid)[0] for pid in (nursery, *workers)] == ["/dev/null"] * 3
        assert len(descriptors(nursery)) == 6  # the three of everybody, the parent's line, and the two ends that wake it
        (lifeline,) = shared_by([proxy.process.pid, *workers])
        assert lifeline.startswith("pipe:")
        assert shared_by([nursery, proxy.process.pid]) == shared_by([nursery, *workers]) - {lifeline} == set()
        os.kill(workers[deaths % 2], signal.SIGKILL)
    assert await proxy.stop() == 0


async def test_a_nursery_that_is_killed_takes_nobody_along(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """Requests go on; a worker that dies is replaced from another nursery; at the end everything is gone, and the books balance."""
    proxy = await serve(begin, file, configuration(upstream, data_dir, workers=2))
    workers = proxy.worker_pids()
    async with stream(proxy, tokens=50) as response:
        await kill_nursery(proxy)
        assert (await rest_of(response)).endswith("data: [DONE]\n\n")
    assert all(map(is_worker, workers))

    os.kill(workers[0], signal.SIGKILL)
    await replaced(proxy, 1, workers=2)
    assert "ended (status unknown); starting another" in proxy.said
    (nursery,) = proxy.nursery_pids()
    (successor,) = proxy.worker_pids()
    assert [session_of(pid) for pid in (nursery, successor)] == [nursery, successor]
    os.kill(successor, signal.SIGKILL)
    await replaced(proxy, 2, workers=2)
    assert "ended (status -9); starting another" in proxy.said
    assert proxy.nursery_pids() == [nursery]

    everyone = [*workers, *proxy.worker_pids(), nursery]
    assert {status for status, _ in await asyncio.gather(*(proxy.chat() for _ in range(10)))} == {200}
    await nothing_held(proxy)
    assert await proxy.stop() == 0
    await until(lambda: not any(map(is_running, everyone)))
    await assert_balanced(begin, file)


async def test_workers_without_a_nursery_drain(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """What runs is finished and waited for, although nobody is there who would tell the workers' ends."""
    proxy = await serve(begin, file, configuration(upstream, data_dir, workers=2))
    workers = proxy.worker_pids()
    async with stream(proxy, tokens=50) as response:
        await kill_nursery(proxy)
        proxy.process.send_signal(signal.SIGTERM)
        assert (await rest_of(response)).endswith("data: [DONE]\n\n")
    assert await proxy.ended() == 0
    await until(lambda: not any(map(is_running, workers)))
    await assert_balanced(begin, file)


async def test_a_killed_parent_takes_workers_without_a_nursery_along(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """They see its end by their channels alone."""
    proxy = await serve(begin, file, configuration(upstream, data_dir, workers=2))
    everyone = [*proxy.worker_pids(), *children_of(proxy.process.pid)]
    await kill_nursery(proxy)
    proxy.process.kill()
    await until(lambda: not any(map(is_running, everyone)))


async def test_a_nursery_ends_with_what_could_not_be_started(begin: Begin, file: Path) -> None:
    """Also where the configuration is refused, before anything is asked of it."""
    file.write_text("[listen]\nwrong = 1\n")
    refused = await run(begin, "serve", "--config", file)
    assert refused.process.returncode == 1  # and its standard error has ended, which a nursery would hold open


async def test_request_ids_differ_over_workers_and_their_successors(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """What makes them unique is made after the fork."""
    proxy = await serve(begin, file, configuration(upstream, data_dir, workers=2))
    ids: list[str] = []
    for deaths in (0, 1):
        await replaced(proxy, deaths, workers=2)
        for _ in range(20):
            async with aiohttp.ClientSession() as session, session.post(**proxy.chat_request()) as response:
                ids.append(response.headers["X-Request-Id"])
        os.kill(proxy.worker_pids()[0], signal.SIGKILL)
    assert len(set(ids)) == 40
