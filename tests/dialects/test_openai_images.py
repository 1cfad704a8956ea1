"""Images: by the piece or by tokens, before the fact and after."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects import DIALECTS, Changes, MediaRule, Paths, Request
from proxy.dialects.sse import FRAME_MAX_BYTES
from proxy.domain import Answer, Call, Usage
from proxy.errors import Refusal
from tests.dialects.test_multipart import HEADERS, body_of, file_part, part
from tests.dialects.test_openai_stream import event

OPENAI = DIALECTS["openai"]
SERVED = Paths([OPENAI])
MEDIA = MediaRule(image_tokens=1_000, audio_tokens=2_000, file_tokens=4_000)
USAGE = {"input_tokens": 30, "input_tokens_details": {"text_tokens": 10, "image_tokens": 20}, "output_tokens": 1_056, "total_tokens": 1_086}


def request_of(path: str, body: bytes) -> Request:
    return Request(SERVED.find("POST", f"/v1/images/{path}").operation, body, headers=HEADERS)


def generation(**members: Any) -> Request:
    return request_of("generations", json.dumps({"model": "m", "prompt": "a cat"} | members).encode())


def edit(*files: str, path: str = "edits", **fields: str) -> Request:
    texts = [part(name, value.encode()) for name, value in ({"model": "m", "prompt": "a cat"} | fields).items()]
    return request_of(path, body_of(*texts, *(file_part(name, b"PNG") for name in files or ("image",))))


def parse(request: Request) -> Call:
    return OPENAI.parse_request(request, MEDIA)


def refusal(request: Request) -> Refusal:
    with pytest.raises(Refusal) as refused:
        parse(request)
    assert refused.value.code == "invalid_request"
    return refused.value


def answer(request: Request, document: object) -> Answer:
    return OPENAI.read_answer(parse(request), json.dumps(document).encode(), "application/json")


def test_images_are_priced_by_the_piece_or_by_tokens() -> None:
    """As many as are asked for; the output of each is the most that is documented, all of it held or nothing."""
    call = parse(generation(n=3, quality="high", user="ann"))
    assert (call.operation, call.model, call.stream, call.choices) == ("images", "m", False, 3)
    assert (call.units, call.needs) == (Usage(image=3), (("image",), ("input", "output")))
    assert (call.output_tokens_max, call.divisible) == (6_240, False)
    assert (call.input_tokens_bound, call.input_tokens_counted) == (16 + 5, 2)


@pytest.mark.parametrize(
    ("members", "tokens"),
    [
        ({"size": "1024x1024"}, 6_240),
        ({"size": "auto"}, 6_240),
        ({"size": None}, 6_240),
        ({"size": "2048x3072"}, 4 * 6_240),
        ({"stream": True, "partial_images": 2}, 6_240 + 200),
        ({"stream": True, "partial_images": 0}, 6_240),
    ],
)
def test_larger_and_partial_images_take_more_tokens(members: dict[str, Any], tokens: int) -> None:
    """By their area; each image on the way to the last takes a hundred."""
    assert parse(generation(**members)).output_tokens_max == tokens


@pytest.mark.parametrize(
    "request_",
    [
        *(
            generation(n=0),
            generation(n=129),
            generation(n="2"),
            generation(size=7),
            generation(partial_images=4),
            generation(stream="yes"),
        ),
        *(generation(n=2, stream=True), generation(model=None), edit("image", "file"), edit(n="x"), edit(n="2", stream="true")),
        Request(edit().operation, b"{}", headers={"Content-Type": "application/json"}),
    ],
)
def test_what_cannot_be_bounded_is_refused(request_: Request) -> None:
    """Odd numbers and kinds, files that nobody knows, several images in one stream."""
    refusal(request_)


@pytest.mark.parametrize(
    ("request_", "images"),
    [
        (edit(), 1),
        (edit("image[]", "image[]", "mask"), 3),
        (edit(path="variations"), 1),
        (edit("mask", image="data:image/png;base64,AAAA"), 2),
        (generation(image=["https://a/b.png", "https://a/c.png"]), 2),
    ],
)
def test_images_that_are_sent_count_by_the_operators_rule(request_: Request, images: int) -> None:
    """Whatever their size, and whether they come as files or by reference."""
    call = parse(request_)
    assert (call.input_tokens_bound, call.units.image) == (16 + 5 + images * 1_000, 1)


@pytest.mark.parametrize("name", ["num_images", "num_images_per_prompt", "num_outputs_per_prompt", "batch_size", "batch_count"])
def test_the_number_of_images_has_other_names(name: str) -> None:
    """The largest counts, whichever a server obeys, in JSON as in forms."""
    for request in (generation(n=2, **{name: 8}), edit(**{name: "8"})):
        assert parse(request).units.image == 8


def test_members_that_a_prompt_hides_are_refused() -> None:
    """One server reads them there, the number of images among them."""
    prompt = 'a cat <sd_cpp_extra_args>{"batch_count": 8}</sd_cpp_extra_args>'
    assert "hides" in refusal(generation(prompt=prompt)).message


@pytest.mark.parametrize("name", ["Model", "N", "Size"])
def test_names_in_another_case_are_refused(name: str) -> None:
    """Servers written in Go read a name in any case and obey the last."""
    assert "must be spelt" in refusal(generation(**{name: "dear"})).message


def test_nothing_but_an_alias_is_rewritten() -> None:
    """No member of a request makes an image smaller."""
    for request in (generation(), edit()):
        assert OPENAI.rewrite(parse(request), request, Changes(output_tokens_max=1)) is None
    assert OPENAI.rewrite(parse(generation()), generation(), Changes(model="real")) == generation(model="real").body
    assert OPENAI.rewrite(parse(edit()), edit(), Changes(model="real")) == edit(model="real").body


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"data": [{}, {}], "usage": USAGE}, Answer(Usage(input=30, output=1_056, image=2), 2 * 6_240)),
        ({"data": [{}], "usage": USAGE}, Answer(Usage(input=30, output=1_056, image=1), 6_240)),
        ({"data": [{}] * 5, "usage": USAGE}, Answer(Usage(input=30, output=1_056, image=2), 2 * 6_240)),
        ({"data": [{}, {}]}, Answer(None, 2 * 6_240)),
        ({"data": [{}, {}], "usage": {"input_tokens": 3.5}}, Answer(None, 2 * 6_240, usage_rejected=True)),
        ({"images": 7}, Answer(None, 2 * 6_240)),
        (["odd"], Answer(None, 2 * 6_240)),
        ({"error": {"message": "no"}}, Answer(None, 0)),
    ],
)
def test_a_whole_answer_is_read(document: object, expected: Answer) -> None:
    """As many images as came, tokens as reported; else each counts the most it may."""
    assert answer(generation(n=2), document) == expected


def stream(*events: dict[str, Any]) -> tuple[list[tuple[int, Usage | None, bool]], Any]:
    reader = OPENAI.read_stream(parse(generation(stream=True, partial_images=1)), "text/event-stream")
    assert reader is not None
    data = b"".join(map(event, events))
    pieces = [*reader.feed(data), *reader.close()]
    assert b"".join(piece.data for piece in pieces) == data
    return [(piece.output_tokens, piece.usage, piece.last) for piece in pieces], reader


@pytest.mark.parametrize("kind", ["image_generation", "image_edit"])
def test_a_streamed_image_counts_what_is_reported(kind: str) -> None:
    """Partial images count a third of the most that the image may take, until it is there; an event may be as large as an image."""
    image = "A" * (FRAME_MAX_BYTES + 1)
    pieces, reader = stream(
        {"type": f"{kind}.partial_image", "b64_json": image}, {"type": f"{kind}.completed", "b64_json": image, "usage": USAGE}
    )
    assert pieces == [(2_114, None, False), (0, Usage(input=30, output=1_056, image=1), True)]
    assert (reader.ended, reader.failed) == (True, False)


def test_a_streamed_image_without_usage_counts_the_most_it_may() -> None:
    """It is held before it is forwarded; so is one with absurd usage."""
    assert stream({"type": "image_generation.completed"})[0] == [(6_340, None, True)]
    pieces, reader = stream({"type": "image_generation.completed", "usage": []})
    assert (pieces, reader.usage_rejected) == ([(6_340, None, True)], True)


def test_a_cut_image_ends_in_an_error_event() -> None:
    """Half an image has no end by length."""
    _, reader = stream({"type": "image_generation.partial_image"})
    assert reader.cut_by_length(Usage()) is None
    assert b"insufficient_quota" in reader.cut_by_error(Refusal("insufficient_quota", "No."))
