"""A half-megabyte llama with random weights, and a real llama.cpp server that runs it in a process of its own.

The model speaks nonsense, but every byte on the wire, every token count and every ending is llama.cpp's own. It never ends by
itself (greedy, and its end token's logit is 0), so an answer is as long as the request says. Run as a module it serves until its
standard input closes.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

LAYERS = 2
WIDTH = 64
FEED_FORWARD = 128
HEADS = 4
CONTEXT_TOKENS = 2048
SEATS = 4
START_TIMEOUT_S = 30.0

CHAT_TEMPLATE = "{% for message in messages %}{{ message['role'][0] }}:{{ message['content'] }}\n{% endfor %}a:"
"""Short, because in a byte-level vocabulary every byte of it is a token of input."""


def vocabulary() -> tuple[list[bytes], list[gguf.TokenType]]:
    """Three control tokens, every byte, and some whole words: 312 in all."""
    controls = [b"<unk>", b"<s>", b"</s>"]
    single = [f"<0x{value:02X}>".encode() for value in range(256)]
    pieces = [f"▁{first}{second}".encode() for first in "bdfgklm" for second in ("a", "e", "i", "o", "u", "an", "el")]
    pieces += [f"▁{letter}".encode() for letter in "aiou"]
    types = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    types += [gguf.TokenType.BYTE] * len(single) + [gguf.TokenType.NORMAL] * len(pieces)
    return controls + single + pieces, types


def write_model(file: Path) -> None:
    """Write the model; the same bytes every time."""
    tokens, types = vocabulary()
    random = np.random.default_rng(7)

    def weights(rows: int, columns: int) -> NDArray[np.float32]:
        return random.standard_normal((rows, columns), dtype=np.float32) / np.float32(columns**0.5)

    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0 if kind != gguf.TokenType.NORMAL else -1.0 - n / 100 for n, kind in enumerate(types)])
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)
    for part, token in zip(("pre", "suf", "mid"), range(len(tokens) - 3, len(tokens)), strict=True):
        writer.add_uint32(f"tokenizer.ggml.fim_{part}_token_id", token)  # words that mark the parts of what is filled in

    output = weights(len(tokens), WIDTH)
    output[[kind != gguf.TokenType.NORMAL for kind in types]] = 0.0
    writer.add_tensor("token_embd.weight", weights(len(tokens), WIDTH))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    writer.add_tensor("output.weight", output)
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(WIDTH, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", weights(WIDTH, WIDTH))
        for name in ("ffn_gate", "ffn_up"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", weights(FEED_FORWARD, WIDTH))
        writer.add_tensor(f"blk.{layer}.ffn_down.weight", weights(WIDTH, FEED_FORWARD))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@asynccontextmanager
async def llama_server(directory: Path, *, embeddings: bool = False) -> AsyncIterator[str]:
    """A llama.cpp server in its own process, so that its threads and crashes stay there; gives its base URL."""
    file = directory / "tiny.gguf"
    if not file.exists():
        write_model(file)
    arguments = ["-m", "tests.support.tiny_model", str(file), *(["--embeddings"] if embeddings else [])]
    log = (directory / "llama.log").open("ab")
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while line := await process.stdout.readline():
                if line.startswith(b"listening "):
                    break
            else:
                raise RuntimeError(f"llama.cpp did not start: {(directory / 'llama.log').read_text(errors='replace')[-2000:]}")
        yield line.split()[1].decode()
    finally:
        log.close()
        process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def serve(file: str, *, embeddings: bool) -> None:
    """Serve the model until standard input closes."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = file
    parameters.model_alias = {"tiny"}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.n_ctx = CONTEXT_TOKENS
    parameters.n_parallel = SEATS
    parameters.kv_unified = True
    parameters.cpuparams.n_threads = 1
    parameters.cpuparams_batch.n_threads = 1
    parameters.warmup = False
    parameters.use_jinja = True
    parameters.sampling.temp = 0.0
    if embeddings:
        parameters.embedding = True
        parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    server = xllamacpp.Server(parameters)
    sys.stdout.write(f"listening {server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    serve(sys.argv[1], embeddings="--embeddings" in sys.argv)
