"""The model's own tokenizer, from a file of the operator's in the format of Hugging Face `tokenizers`; nothing is ever downloaded.

Needs the extra [tokenizers]. Used where usage never comes, to count the text that is charged; see `dialects/counting.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.errors import SetupError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZERS_KEPT = 16
_SAMPLE = 'Wörter, words: 語 \U0001f600\n\t{"a": [1, 2.5]}\x00'


def text_counter(file: Path) -> Callable[[str], int]:
    """Counts a text's tokens, without those that a template puts around it. Raises SetupError: no such extra, file or tokenizer."""
    try:
        changed_ns = file.stat().st_mtime_ns
    except OSError as error:
        raise SetupError(f"tokenizer_file {file}: {error.strerror}") from error
    return _counter(file, changed_ns)


@lru_cache(maxsize=TOKENIZERS_KEPT)
def _counter(file: Path, changed_ns: int) -> Callable[[str], int]:
    """One for all upstreams that name the file, until it changes: some are large and take a second to read."""
    try:
        library = importlib.import_module("tokenizers")
    except ImportError as error:
        raise SetupError("tokenizer_file needs the extra [tokenizers]: pip install 'compute-ledger[tokenizers]'") from error
    try:
        tokenizer: Tokenizer = library.Tokenizer.from_file(str(file))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode(_SAMPLE, add_special_tokens=False)
    except Exception as error:  # the library raises nothing narrower
        raise SetupError(f"tokenizer_file {file}: not a tokenizer that can be used: {error}") from error
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))
