"""The configuration file: every problem at once, with its place; secrets only by reference; the example tells every key."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from proxy import config
from proxy.domain import Level, Price, Tier
from proxy.errors import SetupError

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "config.example.toml"
PRICE = {"model": "m", "input": "1"}


def load(file: Path) -> config.Config:
    """A file as `serve` and `check` read it."""
    return config.validate(config.parse(config.read_text(file), source=str(file)), source=str(file))


def problems(document: dict[str, Any]) -> list[str]:
    with pytest.raises(SetupError) as caught:
        config.validate(document, source="file")
    return str(caught.value).splitlines()


def sections(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Each section of the file with its model, wherever it is nested."""
    found = {model.__name__: model}
    for field in model.model_fields.values():
        for part in (field.annotation, *_parts(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                found |= sections(part)
    return found


def _parts(annotation: Any) -> list[Any]:
    return [deeper for part in get_args(annotation) for deeper in (part, *_parts(part))]


def test_the_example_is_valid_and_names_every_key() -> None:
    """config.example.toml loads, and each key that the file may have stands in it."""
    load(EXAMPLE)
    text = EXAMPLE.read_text(encoding="utf-8")
    missing = [
        f"{name}.{key}"
        for name, section in sections(config.Config).items()
        for key in section.model_fields
        if not re.search(rf"\b{key}\b", text)
    ]

    assert missing == []


def test_the_examples_values_are_the_defaults() -> None:
    """Where the example shows a key of [listen] and [ledger], it shows the default."""
    example = load(EXAMPLE)

    assert example.listen == config.Listen()
    assert example.ledger == config.LedgerSection()
    assert example.compat == config.Compat()


def test_every_problem_is_told_at_once_with_its_place() -> None:
    """Five mistakes in five places: five lines."""
    lines = problems(
        {
            "listen": {"proxy": "8080", "workers": 0},
            "plan": [{"name": "p", "limits": [{"credits": "-1", "window": "fortnight"}]}],
            "unknown": 1,
        }
    )

    assert [line.split(": ")[1] for line in lines] == [
        "listen.proxy",
        "listen.workers",
        "plan[0].limits[0].credits",
        "plan[0].limits[0].window",
        "unknown",
    ]


@pytest.mark.parametrize(
    ("document", "part"),
    [
        ({"plan": [{"name": "p"}, {"name": "p"}]}, "plan 'p' stands twice"),
        ({"plan": [{"name": "p"}], "account": [{"id": "a", "plan": "q"}]}, "there is no plan 'q'"),
        ({"plan": [{"name": "p"}], "account": [{"id": "a", "parent": "b"}, {"id": "b"}]}, "must stand before it"),
        ({"account": [{"id": "a"}]}, "at least one [[plan]]"),
        ({"price": [{"model": "m"}]}, "prices nothing"),
        ({"price": [{"model": "m", "reasoning": "1", "cache_write": "1"}]}, "prices nothing"),
        ({"price": [{"model": "a*b", "input": "1"}]}, "one trailing *"),
        ({"price": [{**PRICE, "effective": dt.date(2026, 1, 1)}, {**PRICE, "effective": "2026-01-01T01:00:00+01:00"}]}, "stands twice"),
        ({"price": [{**PRICE, "tier": [{"above_input_tokens": 9, "input": "2"}, {"above_input_tokens": 9, "input": "3"}]}]}, "must rise"),
        ({"price": [{**PRICE, "tier": [{"above_input_tokens": 9}]}]}, "the tier above 9 input tokens prices nothing"),
        ({"price": [{**PRICE, "tier": [{"above_input_tokens": 0, "input": "2"}]}]}, "above_input_tokens"),
        ({"price": [{**PRICE, "tier": [{"above_input_tokens": 9, "image": "2"}]}]}, "tier[0].image"),
        ({"plan": [{"name": "p", "limits": [{"credits": "1"}, {"credits": "2"}]}]}, "share the window day/UTC"),
        ({"plan": [{"name": "p", "limits": [{"credits": "1", "rollover": "capped"}]}]}, "rollover_max"),
        ({"plan": [{"name": "p", "limits": [{"credits": "1", "window": "ever", "rollover": "full"}]}]}, "nothing to roll over"),
        ({"plan": [{"name": "p", "limits": [{"credits": "1", "time_zone": "Mars/Olympus"}]}]}, "IANA"),
        ({"plan": [{"name": "p", "limits": [{"credits": True}]}]}, "decimal string"),
        ({"plan": [{"name": "p", "limits": [{"credits": "0.0000000001"}]}]}, "9 decimal places"),
        ({"plan": [{"name": "p", "limits": [{"credits": "10000000"}]}]}, "range"),
        ({"plan": [{"name": "p", "limits": [{"credits": "1e9999999"}]}]}, "more digits"),
        ({"plan": [{"name": "p", "limits": [{"credits": "1e-9999999"}]}]}, "more digits"),
        ({"plan": [{"name": "p", "limits": [{"credits": "NaN"}]}]}, "finite"),
        ({"upstream": [{"name": "u", "base_url": "http://user:secret@host"}]}, "without user"),
        ({"upstream": [{"name": "u", "base_url": "ftp://host"}]}, "http(s)"),
        ({"ledger": {"url": "postgres://x"}}, "embedded"),
        ({"plan": [{"name": "p", "expired_to_commons": True}]}, "expired_to_commons needs an account in [commons]"),
        ({"intervention": {"tithe": {"mode": "on"}}}, "intervention tithe: it needs an account in [commons]"),
        ({"intervention": {"gini_above": 0.3}}, "gini_release must be below gini_above"),
        ({"account": [{"id": "bad id"}], "plan": [{"name": "p"}]}, "match"),
        ({"level": [{"name": "l"}, {"name": "l"}]}, "level 'l' stands twice"),
        ({"level": [{"name": "credits"}]}, "no level may be called credits"),
        ({"price": [{**PRICE, "level": "credits"}]}, "no level may be called credits"),
        ({"level": [{"name": "l", "input_parts": 0, "output_parts": 0}]}, "nothing to price"),
        ({"level": [{"name": "l", "deflation": 0.5}]}, "greater than or equal to 1"),
        (
            {"plan": [{"name": "p", "unit": "l"}, {"name": "q"}], "account": [{"id": "a"}, {"id": "b", "parent": "a", "plan": "q"}]},
            "account b: counts in credits, its parent a in l",
        ),
    ],
)
def test_a_mistake_is_refused_in_words(document: dict[str, Any], part: str) -> None:
    """Each kind of mistake that a file can have is named."""
    assert part in "\n".join(problems(document))


def test_levels_and_units_have_defaults() -> None:
    """A level is three parts input to one of output, does not rise, and is taken to fall tenfold a year; a plan counts in credits."""
    read = config.validate({"level": [{"name": "l"}], "plan": [{"name": "p"}, {"name": "q", "unit": "l"}]}, source="file")

    assert read.level[0].to_level() == Level("l", input_parts=3, output_parts=1, may_rise=False, deflation=10, rises_at_ms=None)
    cured = config.validate({"level": [{"name": "l", "rises_at": dt.date(1970, 1, 2)}]}, source="file")
    assert cured.level[0].to_level().rises_at_ms == 86_400_000
    assert [plan.to_plan().unit for plan in read.plan] == ["credits", "l"]


def test_amounts_are_exact() -> None:
    """What TOML writes as a float is taken as the decimal that was written."""
    [row] = config.validate({"price": [{"model": "m", "input": 0.15, "output": "0.000000001"}]}, source="file").price

    assert (row.input, row.output) == (150_000_000, 1)


def test_a_tier_stands_below_its_row() -> None:
    """As TOML has it: a table of the row's own."""
    text = '[[price]]\nmodel = "m"\ninput = "1"\n[[price.tier]]\nabove_input_tokens = 200000\ninput = "2"\ncache_write_1h = "4"\n'
    [row] = config.validate(config.parse(text, source="file"), source="file").price
    assert row.to_price() == Price("m", 0, input=1_000_000_000, tiers=(Tier(200_000, input=2_000_000_000, cache_write_1h=4_000_000_000),))


def test_a_secret_that_is_missing_or_empty_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty secret would be no secret."""
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(SetupError, match="NO_SUCH_KEY is not set"):
        config.read_secret(env="NO_SUCH_KEY", file=None, what="key")
    (tmp_path / "key").write_text("\n")
    with pytest.raises(SetupError, match="is empty"):
        config.read_secret(env=None, file=tmp_path / "key", what="key")
    (tmp_path / "key").write_text("secret\n")
    assert config.read_secret(env=None, file=tmp_path / "key", what="key") == "secret"


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    """No file, no TOML: one line with the file's name."""
    for content in (None, "[listen", "\x00"):
        file = tmp_path / "config.toml"
        if content is not None:
            file.write_text(content)
        with pytest.raises(SetupError) as caught:
            load(file)
        assert len(str(caught.value).splitlines()) == 1
        assert str(file) in str(caught.value)
