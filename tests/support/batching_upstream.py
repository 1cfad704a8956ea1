"""An upstream that keeps files and batches as OpenAI does: set `play` as a scripted upstream's `automatic`.

Nothing runs by itself; a test says what came of a batch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from proxy.dialects.multipart import read_form
from tests.support import openai_answers as answers
from tests.support.scripted_upstream import Exchange

Json = dict[str, Any]


def line(name: str, body: Json, *, url: str = "/v1/chat/completions", **members: Any) -> Json:
    """One request of a file."""
    return {"custom_id": name, "method": "POST", "url": url, "body": body, **members}


def lines(*requests: Json) -> bytes:
    return b"".join(json.dumps(request).encode() + b"\n" for request in requests)


def output(name: str, answer: bytes, *, status: int = 200) -> bytes:
    """One line of an output file."""
    return b'{"id":"batch_req_1","custom_id":"%s","response":{"status_code":%d,"request_id":"r","body":%s},"error":null}\n' % (
        name.encode(),
        status,
        answer,
    )


class BatchingUpstream:
    """What it keeps, by id."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Json] = {}
        self.fails: dict[str, int] = {}
        """Statuses that a method and path are answered with instead, after having been carried out: `POST /v1/batches`."""
        self.refuses: dict[str, int] = {}
        """The same, before."""
        self.ends_at_once: bytes | None = None
        """What every new batch has written, where it ends as soon as it begins."""

    def end(self, batch_id: str, written: bytes | None, *, errors: bytes | None = None, status: str = "completed", ran: int = 1) -> None:
        """Let a batch end with this output."""
        batch = self.batches[batch_id]
        batch.update(status=status, request_counts={"total": ran, "completed": ran, "failed": 0})
        for name, content in (("output_file_id", written), ("error_file_id", errors)):
            if content is not None:
                batch[name] = self._keep(content)

    def _keep(self, content: bytes) -> str:
        file_id = f"file-{len(self.files) + 1}"
        self.files[file_id] = content
        return file_id

    async def play(self, exchange: Exchange) -> None:
        """Answer one request."""
        path, _, query = exchange.raw_path.partition("?")
        asked = f"{exchange.method} {path}"
        if asked in self.refuses:
            await exchange.answer(answers.error("not now"), self.refuses[asked])
            return
        status, body = self._answer(asked, path.split("/")[2:], query, exchange)
        if asked in self.fails:
            status, body = self.fails[asked], answers.error("something broke")
        await exchange.answer(body, status)

    def _answer(self, asked: str, segments: Sequence[str], query: str, exchange: Exchange) -> tuple[int, bytes]:
        method = exchange.method
        match segments:
            case ["files"] if method == "POST":
                [content] = read_form(exchange.body, exchange.headers).files("file")
                return 200, self._shown_file(self._keep(bytes(content)))
            case ["files", file_id] if file_id in self.files:
                if method == "DELETE":
                    del self.files[file_id]
                    return 200, answers.encode({"id": file_id, "object": "file", "deleted": True})
                return 200, self._shown_file(file_id)
            case ["files", file_id, "content"] if file_id in self.files:
                return 200, self.files[file_id]
            case ["batches"] if method == "POST":
                batch = {
                    "id": f"batch_{len(self.batches) + 1}",
                    "object": "batch",
                    "status": "in_progress",
                    "created_at": 1,
                    "errors": None,
                }
                batch |= {"output_file_id": None, "error_file_id": None, **exchange.document}
                self.batches[str(batch["id"])] = batch
                if self.ends_at_once is not None:
                    self.end(str(batch["id"]), self.ends_at_once)
                return 200, answers.encode(batch)
            case ["batches"]:
                names = list(reversed(self.batches))
                after = dict(pair.split("=") for pair in query.split("&")).get("after")
                rest = names[names.index(after) + 1 :] if after else names
                return 200, answers.encode({"object": "list", "data": [self.batches[n] for n in rest[:2]], "has_more": len(rest) > 2})
            case ["batches", batch_id, *rest] if batch_id in self.batches:
                if rest:
                    self.batches[batch_id]["status"] = "cancelling"
                return 200, answers.encode(self.batches[batch_id])
        return 404, answers.error(f"no {asked}")

    def _shown_file(self, file_id: str) -> bytes:
        size = len(self.files[file_id])
        shown = {"id": file_id, "object": "file", "bytes": size, "created_at": 1, "filename": "in.jsonl", "purpose": "batch"}
        return answers.encode({**shown, "status": "processed"})
