"""Where settings come from, how they travel, and what of them may change."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from proxy.app.settings import Origin, Source, needing_restart, parse
from proxy.errors import SetupError

UPSTREAM = '[[upstream]]\nname = "a"\nbase_url = "http://a"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def source(file: Path, text: str, **overrides: dict[str, object]) -> Source:
    file.write_text(text)
    return Source(file, overrides=overrides)


def test_the_command_line_wins_over_the_file(file: Path) -> None:
    """What it names is replaced, the rest of the table stays, and a table that the file has not is made."""
    text = '[listen]\nproxy = "127.0.0.1:1"\nadmin = "127.0.0.1:2"\n'
    settings = source(file, text, listen={"proxy": "127.0.0.1:3"}, ledger={"data_dir": "there"}).read().config
    assert (settings.listen.proxy, settings.listen.admin) == ("127.0.0.1:3", "127.0.0.1:2")
    assert settings.ledger.data_dir == Path("there")


def test_a_table_that_is_none_is_a_problem_like_others(file: Path) -> None:
    """An override does not hide that the file has a number where a table belongs."""
    with pytest.raises(SetupError, match=r"config\.toml: listen: "):
        source(file, "listen = 3", listen={"proxy": "127.0.0.1:3"}).read()


def test_settings_are_the_same_on_the_other_side_of_json(file: Path) -> None:
    """A worker has exactly the parent's settings: dates keep their offsets, numbers their digits."""
    rows = ("2025-01-01", "2025-01-01T00:00:00+02:00", "2025-01-01T00:00:00", "2025-01-01T00:00:00.5Z")
    text = UPSTREAM + "".join(f'[[price]]\nmodel = "m{n}"\neffective = {date}\ninput = 0.1\n' for n, date in enumerate(rows))
    settings = source(file, text, listen={"workers": 2}).read()
    travelled = Origin(**json.loads(json.dumps(asdict(settings.origin))))
    assert parse(travelled, name="the parent") == settings.config
    moments = [row.to_price().effective_at_ms for row in settings.config.price]
    assert moments == [1735689600000, 1735682400000, 1735689600000, 1735689600500]


def test_every_missing_secret_is_a_line(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them at once, without the value of any."""
    monkeypatch.delenv("NOT_THERE", raising=False)
    monkeypatch.setenv("IS_THERE", "a secret")
    text = (
        UPSTREAM
        + 'api_key_env = "NOT_THERE"\n[[upstream]]\nname = "b"\nbase_url = "http://b"\napi_key_file = "/not/there"\n'
        + '[[upstream]]\nname = "c"\nbase_url = "http://c"\napi_key_env = "IS_THERE"\n[admin]\ntoken_env = "NOT_THERE"\n'
    )
    with pytest.raises(SetupError) as caught:
        source(file, text).read()
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["[admin] token", "upstream 'a'", "upstream 'b'"]
    assert "a secret" not in str(caught.value)


def test_a_change_is_seen_once_nobody_writes_the_file_any_more(file: Path) -> None:
    """Half a file is never read: two looks must find the same; what was read is not new, nor is a file that is gone."""
    watched = source(file, UPSTREAM)
    watched.read()
    assert not watched.has_changed()
    for n in range(3):
        file.write_text(UPSTREAM * (n + 2))
        os.utime(file, ns=(n, n))
        assert not watched.has_changed()
    assert watched.has_changed()
    file.write_text(UPSTREAM)
    watched.read()
    assert not watched.has_changed()
    assert not watched.has_changed()
    file.unlink()
    assert not watched.has_changed()
    assert not watched.has_changed()


def test_a_file_that_was_replaced_is_seen_though_date_and_size_agree(file: Path) -> None:
    """Tools that deploy by renaming may keep both."""
    watched = source(file, UPSTREAM)
    os.utime(file, ns=(1, 1))
    watched.read()
    other = file.with_name("other")
    other.write_text(UPSTREAM.replace("http://a", "http://b"))
    os.utime(other, ns=(1, 1))
    other.replace(file)
    watched.has_changed()
    assert watched.has_changed()


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("[listen]\ndrain_timeout_s = 1\n[ledger]\nslice_tokens = 1\n[compat]\nbudget_status = 429\n" + UPSTREAM, []),
        ("[listen]\nworkers = 2\n", ["[listen] workers cannot change while the proxy runs; restart it"]),
        (
            '[ledger]\nurl = "redis://x"\nhold_ttl_s = 5\n[admin]\ntoken_file = "x"\n',
            [
                "[ledger] url cannot change while the proxy runs; restart it",
                "[ledger] hold_ttl_s cannot change while the proxy runs; restart it",
                "[admin] token_file cannot change while the proxy runs; restart it",
            ],
        ),
    ],
)
def test_what_needs_a_restart_is_named(text: str, lines: list[str]) -> None:
    """Ports, processes, the ledger's place and tokens; never prices, plans, upstreams, compat, slices."""
    before, after = (parse(Origin(t, {}, {}), name="file") for t in ("", text))
    assert needing_restart(before, after) == lines


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file or directory"), (b"\xff", "can't decode"), (b"[[", "Invalid initial character")],
)
def test_an_unreadable_file_is_one_line_that_names_it(file: Path, content: bytes | None, message: str) -> None:
    """Missing, not UTF-8, not TOML."""
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SetupError, match=message) as caught:
        Source(file, overrides={}).read()
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)
