"""The operator's tokenizer file: read once, refused in words where it cannot be used."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from proxy.dialects.counting import MESSAGE_TOKENS_COUNTED, REPLY_TOKENS_COUNTED
from proxy.domain import Usage
from proxy.errors import SetupError
from proxy.policy.pricing import cost_nanocredits
from proxy.server.tokenizer import text_counter
from tests.server.conftest import Start
from tests.server.test_handler import Asked
from tests.support import openai_answers
from tests.support.proxied import price
from tests.support.scripted_upstream import ScriptedUpstream


def words(**members: Any) -> str:
    """A tokenizer of whole words."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "one": 1, "two": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return json.dumps({**json.loads(tokenizer.to_str()), **members})


def test_a_text_is_counted_as_the_tokenizer_splits_it(tmp_path: Path) -> None:
    """Whole, however the file would cut or fill it for a batch, and without what a template puts around it."""
    file = tmp_path / "tokenizer.json"
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    padding = {
        "strategy": {"Fixed": 9},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[UNK]",
    }
    file.write_text(words(truncation=truncation, padding=padding))
    count = text_counter(file)
    assert [count(text) for text in ("", "one", "one two three", "one\ntwo " * 50)] == [0, 1, 3, 100]
    assert text_counter(file) is count


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    """A reload of the configuration takes up a new tokenizer."""
    file = tmp_path / "tokenizer.json"
    file.write_text(words())
    assert text_counter(file)("onetwo") == 1
    file.write_text(words(pre_tokenizer={"type": "Split", "pattern": {"String": "one"}, "behavior": "Isolated", "invert": False}))
    os.utime(file, ns=(1, 1))
    assert text_counter(file)("onetwo") == 2


@pytest.mark.parametrize("text", ["", "nonsense", "{}", words(model={"type": "WordLevel", "vocab": {"one": 1}, "unk_token": "[UNK]"})])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, text: str) -> None:
    """Also one that would fail at the first word it does not know."""
    file = tmp_path / "tokenizer.json"
    file.write_text(text)
    with pytest.raises(SetupError, match="not a tokenizer that can be used"):
        text_counter(file)


def test_a_missing_file_and_a_missing_extra_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In words that say what to do."""
    file = tmp_path / "tokenizer.json"
    with pytest.raises(SetupError, match="No such file"):
        text_counter(file)
    file.write_text(words())
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(SetupError, match=r"pip install 'compute-ledger\[tokenizers\]'"):
        text_counter(file)


async def test_what_has_no_usage_is_charged_by_the_tokenizer(start: Start, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """Four words are four tokens, beside what the template adds, and so is an answer of three words; by their bytes there would be more."""
    file = tmp_path / "tokenizer.json"
    file.write_text(words())
    body = {"model": "tiny", "messages": [{"role": "user", "content": "one two two unknown"}]}
    for more, tokens, written in (({}, 5, 6), ({"tokenizer_file": str(file)}, 4, 3)):
        async with start(upstream=more) as proxied:
            asked = Asked(proxied, body)
            await (await upstream.next_request()).answer(openai_answers.chat("one two incomprehensible"))
            await asked.whole()
            around = MESSAGE_TOKENS_COUNTED + REPLY_TOKENS_COUNTED
            assert await proxied.spent() == cost_nanocredits(price(), Usage(input=tokens + around, output=written))
