"""The operator verbs' grammar, and how one runs: a client from the environment, the verb, its answer on standard output."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxy.cli.operator import accounts, book, credits, equality, giving, history, interventions, levels, pools, price_import, prices
from proxy.cli.operator.client import AdminClient, CommandFailed, client_from_environment
from proxy.cli.operator.limits import FORM, label, limit
from proxy.cli.operator.shown import Shown

ITEMS_MAX = 1000

Verb = Callable[[AdminClient, argparse.Namespace], Shown]
Subparsers = Any
"""argparse keeps the type of what `add_subparsers` returns to itself."""


def add_operator_commands(subparsers: Subparsers) -> None:
    """Add every operator noun; each leaf sets `run`, which takes the parsed arguments and returns the exit code."""
    _add_accounts(subparsers)
    _add_keys_and_limits(subparsers)
    _add_credits(subparsers)
    _add_giving(subparsers)
    _add_history(subparsers)
    _add_book(subparsers)
    _add_levels(subparsers)
    _add_pools(subparsers)
    _add_equality(subparsers)
    _add_interventions(subparsers)


@dataclass(frozen=True, slots=True)
class Noun:
    """Adds the verbs of one noun."""

    verbs: Subparsers

    def verb(
        self, name: str, act: Verb, summary: str, *, changes: bool = False, explained: bool = False, many: bool = False
    ) -> argparse.ArgumentParser:
        return _leaf(self.verbs, name, act, summary, changes=changes, explained=explained, many=many)


def _noun(subparsers: Subparsers, name: str, summary: str) -> Noun:
    parser = subparsers.add_parser(name, help=summary, description=f"{summary}.")
    return Noun(parser.add_subparsers(required=True, metavar="VERB"))


def _leaf(
    subparsers: Subparsers, name: str, act: Verb, summary: str, *, changes: bool = False, explained: bool = False, many: bool = False
) -> argparse.ArgumentParser:
    """One command. `changes`: it is a mutation, `explained`: and needs a reason; `many`: it may list much."""
    parser: argparse.ArgumentParser = subparsers.add_parser(name, help=summary, description=f"{summary}.")
    parser.add_argument("--json", action="store_true", help="the API's answer, for scripts")
    if changes:
        parser.add_argument("--reason", default="", required=explained, help="why; it stands in the audit log")
        parser.add_argument("--idempotency-key", metavar="KEY", help="the same key makes a repeat of this command harmless")
    if many:
        parser.add_argument("--max", type=_count, default=ITEMS_MAX, metavar="N", help=f"lines at most (default {ITEMS_MAX})")
    parser.set_defaults(run=lambda args: run(act, args))
    return parser


def run(act: Verb, args: argparse.Namespace) -> int:
    """Carry out one verb: 0 done, 1 refused or failed, with one line on standard error."""
    try:
        client = client_from_environment(idempotency_key=getattr(args, "idempotency_key", None))
        shown = act(client, args)
        for chunk in shown.chunks:
            sys.stdout.buffer.write(chunk)
        if not shown.chunks_only:
            print(json.dumps(shown.document, ensure_ascii=False, indent=2) if args.json else shown.text)
        sys.stdout.flush()
    except CommandFailed as error:
        print(f"compute-ledger: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if shown.note and not args.json:
        print(shown.note, file=sys.stderr)
    return 0


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError("must be a number from 1 to 1000000")
    return int(text)


def _add_accounts(subparsers: Subparsers) -> None:
    noun = _noun(subparsers, "account", "Accounts: who holds a budget")
    create = noun.verb("create", accounts.create, "Create an account", changes=True)
    create.add_argument("account", metavar="ACCOUNT")
    create.add_argument("--parent", metavar="ACCOUNT")
    _add_settings(create)
    create.add_argument("--limit", type=limit, action="append", metavar=FORM, help="instead of the plan's limits; may be repeated")
    listing = noun.verb("list", accounts.list_, "List accounts", many=True)
    listing.add_argument("--parent", metavar="ACCOUNT")
    listing.add_argument("--plan", metavar="NAME")
    listing.add_argument("--status", choices=("active", "suspended", "closed"))
    noun.verb("show", accounts.show, "Show an account").add_argument("account", metavar="ACCOUNT")
    change = noun.verb("set", accounts.change, "Change an account; what is not named stays", changes=True)
    change.add_argument("account", metavar="ACCOUNT")
    _add_settings(change)
    for name, act, summary in (
        ("suspend", accounts.suspend, "Refuse an account's requests, until resumed"),
        ("resume", accounts.resume, "Let a suspended account go on"),
        ("close", accounts.close, "Close an account for good"),
    ):
        noun.verb(name, act, summary, changes=True).add_argument("account", metavar="ACCOUNT")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plan", metavar="NAME")
    parser.add_argument("--weight", type=int, metavar="N", help="its share where compute is scarce")
    parser.add_argument("--label", type=label, action="append", metavar="NAME=VALUE", help="may be repeated; they replace what was there")


def _add_keys_and_limits(subparsers: Subparsers) -> None:
    noun = _noun(subparsers, "key", "API keys of accounts")
    noun.verb("create", accounts.create_key, "Create an API key; it is shown this once", changes=True).add_argument(
        "account", metavar="ACCOUNT"
    )
    noun.verb("list", accounts.list_keys, "List an account's API keys").add_argument("account", metavar="ACCOUNT")
    noun.verb("revoke", accounts.revoke_key, "Revoke an API key", changes=True).add_argument("key_id", metavar="KEY_ID")
    noun = _noun(subparsers, "limit", "Limits: credits for each window")
    noun.verb("show", accounts.show_limits, "Show an account's limits in their present windows").add_argument("account", metavar="ACCOUNT")
    change = noun.verb("set", accounts.set_limits, "Give an account limits of its own, or its plan's again", changes=True)
    change.add_argument("account", metavar="ACCOUNT")
    choice = change.add_mutually_exclusive_group(required=True)
    choice.add_argument("--limit", type=limit, action="append", metavar=FORM, help="such as 5/day; may be repeated")
    choice.add_argument("--from-plan", action="store_true", help="the plan's limits again")


def _add_credits(subparsers: Subparsers) -> None:
    noun = _noun(subparsers, "grant", "Grants: credits added once")
    add = noun.verb("add", credits.add_grant, "Grant credits", changes=True, explained=True)
    add.add_argument("account", metavar="ACCOUNT")
    add.add_argument("credits", metavar="CREDITS")
    add.add_argument("--priority", type=int, default=0, metavar="N", help="lower is spent first (default 0)")
    add.add_argument("--start", metavar="TIME", help='when it begins, such as "2026-12-01T00:00:00Z" (default now)')
    add.add_argument("--end", metavar="TIME", help="when it expires (default never)")
    noun.verb("list", credits.list_grants, "List an account's grants").add_argument("account", metavar="ACCOUNT")
    revoke = noun.verb("revoke", credits.revoke_grant, "Take back what a grant has left", changes=True)
    revoke.add_argument("account", metavar="ACCOUNT")
    revoke.add_argument("grant_id", metavar="GRANT_ID")
    transfer = _leaf(subparsers, "transfer", credits.transfer, "Give credits of one account to another", changes=True, explained=True)
    transfer.add_argument("source", metavar="FROM")
    transfer.add_argument("target", metavar="TO")
    transfer.add_argument("credits", metavar="CREDITS")
    adjust = _leaf(subparsers, "adjust", credits.adjust, "Correct what an account spent: negative gives back", changes=True, explained=True)
    adjust.add_argument("account", metavar="ACCOUNT")
    adjust.add_argument("credits", metavar="CREDITS")


def _add_giving(subparsers: Subparsers) -> None:
    noun = _noun(subparsers, "loan", "Loans: credits that come back by themselves")
    create = noun.verb("create", giving.create_loan, "Lend credits of one account to another", changes=True, explained=True)
    create.add_argument("source", metavar="FROM")
    create.add_argument("target", metavar="TO")
    create.add_argument("credits", metavar="CREDITS")
    create.add_argument("--due", required=True, metavar="TIME", help='when it comes back, such as "2026-12-01T00:00:00Z"')
    noun.verb("list", giving.list_loans, "List loans, newest first", many=True).add_argument("--account", metavar="ACCOUNT")
    noun.verb("show", giving.show_loan, "Show a loan").add_argument("loan_id", metavar="LOAN_ID")
    forgive = noun.verb("forgive", giving.forgive_loan, "Leave a borrower what is outstanding", changes=True, explained=True)
    forgive.add_argument("loan_id", metavar="LOAN_ID")
    noun = _noun(subparsers, "dividend", "Dividends: credits of the commons for everybody who is entitled")
    create = noun.verb("create", giving.create_dividend, "Hand out credits of the commons", changes=True, explained=True)
    create.add_argument("credits", metavar="CREDITS", help='together; "all": what the commons has')
    create.add_argument("--by", choices=("equal", "weight"), default="equal", help="to everybody alike (default), or by weight")
    create.add_argument("--end", metavar="TIME", help="when it expires (default: when it would in the commons)")
    noun.verb("list", giving.list_dividends, "List dividends, newest first", many=True)
    noun.verb("show", giving.show_dividend, "Show a dividend and how far it came").add_argument("dividend_id", metavar="DIVIDEND_ID")
    noun = _noun(subparsers, "request", "Requests: what agents ask their people for")
    noun.verb("list", giving.list_requests, "List what a person has not answered", many=True).add_argument("account", metavar="ACCOUNT")


def _add_history(subparsers: Subparsers) -> None:
    journal = _leaf(subparsers, "journal", history.journal, "An account's journal, newest first")
    journal.add_argument("account", metavar="ACCOUNT")
    journal.add_argument("--limit", type=_count, metavar="N", help="entries at most (default 20; all with --csv)")
    journal.add_argument("--csv", action="store_true", help="as CSV, with every posting")
    noun = _noun(subparsers, "hold", "Holds: credits reserved for running requests")
    noun.verb("list", history.list_holds, "List an account's open holds", many=True).add_argument("account", metavar="ACCOUNT")
    noun = _noun(subparsers, "event", "The audit log: who changed what, and why")
    noun.verb("list", history.list_events, "List the audit log, newest first", many=True)


def _add_book(subparsers: Subparsers) -> None:
    noun = _noun(subparsers, "plan", "Plans: limits, weight and rules that accounts share")
    noun.verb("list", book.list_plans, "List plans")
    noun.verb("show", book.show_plan, "Show a plan").add_argument("name", metavar="NAME")
    change = noun.verb("set", book.set_plan, "Define a plan, or change what is named of it", changes=True)
    change.add_argument("name", metavar="NAME")
    change.add_argument("--limit", type=limit, action="append", metavar=FORM, help="all of its limits; may be repeated")
    change.add_argument("--no-limits", action="store_true", help="no limit at all")
    change.add_argument("--weight", type=int, metavar="N")
    change.add_argument("--unit", metavar="LEVEL", help="of a new plan: what its amounts count, units of a level (default: credits)")
    change.add_argument("--model", action="append", metavar="PATTERN", help="what its accounts may use; may be repeated")
    scavenging = "whether its accounts, once without budget, may use spare seats at the commons' expense"
    change.add_argument("--scavenge", action=argparse.BooleanOptionalAction, help=scavenging)
    change.add_argument("--transfers", action=argparse.BooleanOptionalAction, help="whether its accounts may give credits away")
    change.add_argument("--loans", action=argparse.BooleanOptionalAction, help="whether its accounts may lend credits")
    flowing = "whether what its accounts leave unused until it expires goes to the commons"
    change.add_argument("--expired-to-commons", action=argparse.BooleanOptionalAction, help=flowing)
    change.add_argument("--requests-per-minute", type=int, metavar="N", help="that each account may begin; 0: as many as come")
    change.add_argument("--concurrent-requests", type=int, metavar="N", help="that each account may run at a time; 0: as many as come")
    _add_prices(_noun(subparsers, "price", "The price book: credits per million tokens"))


def _add_levels(subparsers: Subparsers) -> None:
    noun = _noun(subparsers, "level", "Levels: what a unit of a class of capability costs")
    noun.verb("list", levels.list_levels, "List levels")
    noun.verb("show", levels.show_level, "Show a level, its models and how its index has moved").add_argument("name", metavar="NAME")


def _add_prices(noun: Noun) -> None:
    listing = noun.verb("list", prices.list_prices, "List prices, all dates", many=True)
    listing.add_argument("--model", metavar="NAME", help="only what matches this model")
    add = noun.verb("add", prices.add_price, "Add a dated price; rows never change", changes=True)
    add.add_argument("model", metavar="MODEL", help="a model's exact name, or a prefix with one trailing *")
    add.add_argument("--effective", metavar="TIME", help="from when on: a date or an RFC 3339 time (default now)")
    for kind, what in prices.KINDS.items():
        add.add_argument(f"--{kind.replace('_', '-')}", dest=kind, metavar="CREDITS", help=what)
    help = "what a request of a batch costs of all these; without it, there are no batches of the model"
    add.add_argument("--batch-percent", type=int, metavar="PERCENT", help=help)
    help = "other rates where the whole input is longer, such as 200000:input=2.5,output=15; may be repeated"
    add.add_argument("--tier", type=prices.tier, action="append", metavar=prices.TIER_FORM, help=help)
    add.add_argument("--level", metavar="NAME", help="the level of AI that the model stands for")
    price_import.add_to(noun.verbs)


def _add_pools(subparsers: Subparsers) -> None:
    noun = _noun(subparsers, "pool", "Pools: the seats of upstreams that serve only so many requests at a time")
    noun.verb("list", pools.list_pools, "List pools and how they stand")
    noun.verb("show", pools.show_pool, "Show a pool").add_argument("pool", metavar="POOL")
    for name, act, summary in (
        ("drain", pools.drain, "Give no more seats and let no more requests wait; what runs goes on"),
        ("open", pools.reopen, "Give seats again"),
    ):
        noun.verb(name, act, summary, changes=True).add_argument("pool", metavar="POOL")


def _add_equality(subparsers: Subparsers) -> None:
    parser = _leaf(subparsers, "equality", equality.show, "How equally use is spread over people")
    parser.add_argument("--window", choices=equality.WINDOWS, default="day", help="(default day)")
    parser.add_argument("--group", metavar="DIMENSION", help="divide people by plan, organisation, or a label of [equality] labels")
    parser.add_argument("--unit", help="people who count in credits, or in units of a level (default: what most people count in)")
    verbs = parser.add_subparsers(metavar="[VERB]")
    _leaf(verbs, "recount", equality.recount, "Count all use anew, and tell how far the figures had drifted")


def _add_interventions(subparsers: Subparsers) -> None:
    noun = _noun(subparsers, "intervention", "Interventions: policies against inequality under scarcity")
    noun.verb("list", interventions.list_interventions, "List policies, what they do and would do, and why")
    change = noun.verb("set", interventions.set_mode, "Change a policy's mode at run time", changes=True)
    change.add_argument("policy", choices=("floor", "cap", "progressive_price", "brake", "tithe", "dividend"))
    change.add_argument("mode", choices=("off", "dry_run", "on", "configured"), help="configured: as the configuration file has it")
