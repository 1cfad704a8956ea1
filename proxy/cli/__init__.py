"""The command line: what there is to say, and which module does it.

Exit codes: 0 done, 1 refused or failed (one clear line on standard error), 2 wrong usage. Modules are imported when their
command runs, so that asking for help, or a short operator verb, does not load the proxy.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from proxy import __version__
from proxy.cli.operator import add_operator_commands
from proxy.errors import Expected, SetupError

_AMOUNT = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?")
DESCRIPTION = "A reverse proxy that gives every person a real compute budget in front of any model inference endpoint."


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command; its exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["_nursery"]:  # not for people: how the parent starts another nursery where the first was killed
        return _run_module("proxy.app.nursery", int(words[1]))
    args = _parser().parse_args(words)
    try:
        code = args.run(args)
    except (SetupError, Expected) as error:
        for line in str(error).splitlines():
            print(f"compute-ledger: {line}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    assert isinstance(code, int)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="compute-ledger", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_serve(commands.add_parser("serve", help="run the proxy", description="Run the proxy."))
    _add_demo(commands.add_parser("demo", help="the whole story on this machine", description="Show the whole story on this machine."))
    summary = "check the configuration, what it names, and the ledger's settings"
    _add_check(commands.add_parser("check", help=summary, description=f"{summary.capitalize()}."))
    summary = "prove that the books of the live ledger balance"
    _add_audit(commands.add_parser("audit", help=summary, description=f"{summary.capitalize()}."))
    summary = "what budgets in units of a level cost, now and in years to come, or what a pool of credits buys each person"
    _add_plan_budget(commands.add_parser("plan-budget", help=summary, description=f"Say {summary}."))
    _add_simulate(commands.add_parser("simulate", help="try the rules out on a simulated clock", description="Try the rules out."))
    add_operator_commands(commands)
    return parser


def _add_serve(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", type=Path, metavar="FILE", help="the configuration (TOML)")
    what.add_argument("--upstream", metavar="URL", help="without a file: the model endpoint to stand in front of")
    parser.add_argument("--proxy", metavar="HOST:PORT", help="where callers connect (default 127.0.0.1:8080)")
    parser.add_argument("--admin", metavar="HOST:PORT", help="the admin API and metrics (default 127.0.0.1:8081)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that serve requests (default 1)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where the ledger is kept (default ledger-data)")
    parser.add_argument("--verbose", action="store_true", help="log a line for each request")
    _runs(parser, "proxy.cli.serve")


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, metavar="N", help="the proxy's port (default: a free one)")
    parser.add_argument("--seconds", type=float, metavar="N", help="end after about so long, the story told (default: run until Ctrl-C)")
    _runs(parser, "proxy.cli.demo")


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="the configuration (default: what runs without a file)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where the ledger is kept (default ledger-data)")
    _runs(parser, "proxy.cli.check")


def _add_audit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="the configuration that names the ledger")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where the ledger is kept (default ledger-data)")
    _runs(parser, "proxy.cli.audit")


def _add_plan_budget(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--level", required=True, metavar="NAME", help="the level whose units are planned with")
    parser.add_argument("--people", type=_count_of_people, required=True, metavar="N", help="how many share")
    parser.add_argument("--units", type=_amount_planned, metavar="UNITS", help="that each has a day: what do they cost?")
    parser.add_argument("--pool", type=_amount_planned, metavar="CREDITS", help="that there are a day: what does each get?")
    parser.add_argument("--config", type=Path, metavar="FILE", help="whose prices count (default: the running proxy's, over its admin API)")
    parser.add_argument("--json", action="store_true", help="exact figures, for scripts")

    def carry_out(args: argparse.Namespace) -> int:
        if args.units is None and args.pool is None:
            parser.error("give --units, --pool, or both")
        return _run_module("proxy.cli.plan_budget", args)

    parser.set_defaults(run=carry_out)


def _count_of_people(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 10**10:
        raise argparse.ArgumentTypeError("must be a number from 1 to 10000000000")
    return int(text)


def _amount_planned(text: str) -> str:
    """As it was given; a plan may be larger than any ledger."""
    if not _AMOUNT.fullmatch(text) or not text.strip("0."):
        raise argparse.ArgumentTypeError('must be an amount above 0 with at most 9 decimal places, such as "12.5"')
    return text


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    summary = "how a scarce server is shared, by these rules and by the usual ones"
    about = f"Show {summary}: published workloads, and two of our own."
    fair = parser.add_subparsers(required=True, metavar="WHAT").add_parser("fair-share", help=summary, description=about)
    fair.add_argument("--workload", metavar="NAME", help="one workload in detail (default: all of them, a line each)")
    fair.add_argument("--seed", type=int, default=42, metavar="N", help="chance, where a workload has any (default 42)")
    fair.add_argument("--png", type=Path, metavar="FILE", help="write the picture there too")
    fair.add_argument("--json", action="store_true", help="every figure, for scripts")
    _runs(fair, "proxy.cli.simulate")


def _runs(parser: argparse.ArgumentParser, module: str) -> None:
    """Have the command carried out by the `run` of a module; it takes the parsed arguments and returns the exit code."""
    parser.set_defaults(run=lambda args: _run_module(module, args))


def _run_module(module: str, what: argparse.Namespace | int) -> int:
    code = import_module(module).run(what)
    assert isinstance(code, int)
    return code
