"""OpenAI's images: made from a prompt, or from other images. Priced by the image, or by the tokens that newer models report.

How many tokens an image takes is known only once it is there, so before the fact each counts the most that OpenAI documents, more for
larger sizes. Fields and events: github.com/openai/openai-openapi.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from proxy.dialects.counting import InputCount, MediaRule
from proxy.dialects.document import edit_members, encode, lenient_decoder, read_object
from proxy.dialects.members import check_spelling, flag, model_name, not_priced, whole, wrong
from proxy.dialects.multipart import read_fields, read_form
from proxy.dialects.openai_events import TypedReader
from proxy.dialects.openai_responses import PARTIAL_IMAGE_OUTPUT_TOKENS
from proxy.dialects.openai_usage import read_usage
from proxy.dialects.protocol import Changes, Reader, Request
from proxy.dialects.sse import EVENT_STREAM, Frame
from proxy.domain import Answer, Call, Piece, Usage

GENERATIONS = "images"
IMAGES_MAX = 128
IMAGE_OUTPUT_TOKENS_MAX = 6_240
"""gpt-image-1 at high quality, 1024 x 1536; the other documented sizes and qualities take less."""
PARTIAL_IMAGES_MAX = 3
EVENT_MAX_BYTES = 2**25
"""An event holds an image in Base64."""
_PIXELS = 1024 * 1536
_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")
_NEEDS = (("image",), ("input", "output"))
_FLAGS = ("stream",)
_COUNTS = ("n", "num_images", "num_images_per_prompt", "num_outputs_per_prompt", "batch_size", "batch_count")
"""How many images are asked for, in the words of one server or another."""
_NUMBERS = (*_COUNTS, "partial_images", "output_compression")
_HIDDEN_MEMBERS = "<sd_cpp_extra_args>"
"""By which stable-diffusion.cpp finds members of a request, any number of images among them, within the prompt."""
_IMAGES = frozenset({"image", "images", "mask"})
_NOT_PROMPT = frozenset(
    {
        *("model", "size", "quality", "response_format", "output_format", "background", "moderation", "style", "user", "input_fidelity"),
        *_FLAGS,
        *_NUMBERS,
    }
)
_SPELT_SO = _NOT_PROMPT | _IMAGES | {"prompt"}


def parse_request(request: Request, media: MediaRule) -> Call:
    """What a request asks for. Raises Refusal: invalid_request."""
    count = InputCount(media)
    if request.operation.name == GENERATIONS:
        document = read_object(request.body)
        check_spelling(document, _SPELT_SO)
    else:
        form = read_form(request.body, request.headers)
        document = read_fields(form.texts, flags=_FLAGS, numbers=_NUMBERS)
        if not _IMAGES.issuperset(form.file_names):
            raise not_priced("The form holds files beside 'image' and 'mask'.")
        count.add_tokens(media.image_tokens * len(form.file_names))
    for name, value in document.items():
        if name.removesuffix("[]") in _IMAGES:
            count.add_tokens(media.image_tokens * (len(value) if isinstance(value, list) else 1))  # by reference, or in Base64
        elif name not in _NOT_PROMPT:
            count.add_plain(value)
    stream = flag(document, "stream")
    images = max(whole(document, name, IMAGES_MAX) or 1 for name in _COUNTS)
    if _HIDDEN_MEMBERS in str(document.get("prompt")):
        raise not_priced(f"{_HIDDEN_MEMBERS} cannot be used in a prompt: it hides what is asked for.")
    if stream and images > 1:
        raise not_priced("'n' above 1 cannot be used with 'stream': which image the usage is of is not said.")
    partial_images = (document.get("partial_images") and whole(document, "partial_images", PARTIAL_IMAGES_MAX)) or 0
    return Call(
        operation=request.operation.name,
        model=model_name(document),
        stream=stream,
        choices=images,
        output_tokens_max=_image_tokens(document.get("size")) + PARTIAL_IMAGE_OUTPUT_TOKENS * partial_images,
        input_tokens_bound=count.bound,
        input_tokens_counted=count.counted,
        units=Usage(image=images),
        needs=_NEEDS,
        divisible=False,
        shows_writing=False,
    )


def rewrite(call: Call, request: Request, changes: Changes) -> bytes | None:
    """The body to forward instead, or None where nothing changes: no member makes an image smaller than it was asked for."""
    if changes.model is None:
        return None
    if call.operation == GENERATIONS:
        return edit_members(request.body, {"model": encode(changes.model)})
    return read_form(request.body, request.headers).with_texts({"model": changes.model})


def _image_tokens(size: object) -> int:
    if size is None:
        return IMAGE_OUTPUT_TOKENS_MAX
    if not isinstance(size, str):
        raise wrong("size", "a string")
    named = _SIZE.fullmatch(size)
    pixels = int(named[1]) * int(named[2]) if named else 0
    return max(IMAGE_OUTPUT_TOKENS_MAX, -(-IMAGE_OUTPUT_TOKENS_MAX * pixels // _PIXELS))


# --- answers -------------------------------------------------------------------------------------------------------------------------


class _Body(msgspec.Struct):
    data: list[Any] | None = None
    usage: Any = None
    error: Any = None


_decode_body = lenient_decoder(_Body)


def read_answer(call: Call, body: bytes, media_type: str) -> Answer:
    """What a whole answer used: as many images as it holds, and tokens where it reports them; else each counts the most it may."""
    answer = _decode_body(body)
    images = call.units.image
    if answer is not None and answer.data is not None:
        images = min(images, len(answer.data))
    most = (call.output_tokens_max or 0) * images
    if answer is None or answer.usage is None:
        return Answer(None, 0 if answer is not None and answer.error else most)
    usage = read_usage(answer.usage)
    if usage is None:
        return Answer(None, most, usage_rejected=True)
    return Answer(replace(usage, image=images), most)


def read_stream(call: Call, media_type: str) -> Reader | None:
    """A reader for events; None for any other answer."""
    return ImageReader(call) if media_type == EVENT_STREAM else None


class ImageReader(TypedReader):
    """Reads the events of one image."""

    __slots__ = ("_counted",)

    def __init__(self, call: Call) -> None:
        super().__init__(call, frame_max_bytes=EVENT_MAX_BYTES)
        self._counted = 0

    def _read_event(self, frame: Frame, kind: str, event: Mapping[str, Any]) -> Piece | None:
        if kind.endswith(".partial_image"):  # the last of them is nearly the image, so whoever leaves then pays for nearly all of it
            tokens = -(-(self._call.output_tokens_max or 0) // PARTIAL_IMAGES_MAX)
            self._counted += tokens
            return Piece(frame.raw, tokens)
        if not kind.endswith(".completed"):
            return None
        reported = event.get("usage")
        usage = None if reported is None else read_usage(reported)
        most = self._call.output_tokens_max or 0
        image = max(0, (most if usage is None else min(most, usage.output_tokens)) - self._counted)
        return self._end(frame, output_tokens=image, usage=usage and replace(usage, image=self._call.units.image), reported=reported)
