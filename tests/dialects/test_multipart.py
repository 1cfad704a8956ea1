"""Forms with files: what is read in them, what two parsers might read in two ways, and that edits touch nothing else."""

from __future__ import annotations

import contextlib
import email.parser
import email.policy

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.multipart import PARTS_MAX, Form, read_fields, read_form
from proxy.errors import Refusal

BOUNDARY = "b0undary"
HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def part(name: str, value: bytes = b"v", *, disposition: str = "", head: str = "") -> bytes:
    shown = disposition or f'form-data; name="{name}"'
    return f"--{BOUNDARY}\r\nContent-Disposition: {shown}\r\n{head}\r\n".encode() + value + b"\r\n"


def file_part(name: str, value: bytes, file_name: str = "a.wav") -> bytes:
    return part(name, value, disposition=f'form-data; name="{name}"; filename="{file_name}"', head="Content-Type: audio/wav\r\n")


def body_of(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def refusal(body: bytes, headers: dict[str, str] = HEADERS) -> str:
    with pytest.raises(Refusal) as refused:
        read_form(body, headers).texts  # noqa: B018 (texts are read when asked for)
    assert refused.value.code == "invalid_request"
    return refused.value.message


def read(*parts: bytes) -> Form:
    return read_form(body_of(*parts), HEADERS)


def test_texts_and_files_are_told_apart() -> None:
    """By their names; several values of a list stand together."""
    form = read(part("model", b"m"), file_part("file", b"\x00\r\n--\xff"), part("include[]", b"a"), part("include[]", "\u00e9".encode()))
    assert form.texts == {"model": "m", "include[]": "a\n\u00e9"}
    assert list(form.files("file")) == [b"\x00\r\n--\xff"]
    assert form.files("model") == []


def test_a_list_of_files_is_found_by_its_name() -> None:
    """OpenAI's clients send one image as `image` and several as `image[]`."""
    form = read(file_part("image[]", b"1"), file_part("image[]", b"2"), file_part("mask", b"3"))
    assert [bytes(file) for file in form.files("image")] == [b"1", b"2"]
    assert form.file_names == ["image", "image", "mask"]


@pytest.mark.parametrize(
    "content_type",
    [
        f"multipart/form-data; boundary={BOUNDARY}",
        f"Multipart/Form-Data;boundary={BOUNDARY}",
        f'multipart/form-data; boundary="{BOUNDARY}"',
    ],
)
def test_the_boundary_may_be_quoted(content_type: str) -> None:
    """Both spellings are common."""
    assert read_form(body_of(part("a")), {"content-type": content_type}).texts == {"a": "v"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "application/json"},
        {"Content-Type": "multipart/form-data"},
        {"Content-Type": "multipart/form-data; boundary="},
        {"Content-Type": 'multipart/form-data; boundary=""'},
        {"Content-Type": f"multipart/mixed; boundary={BOUNDARY}"},
        {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}; boundary=other"},
        {"Content-Type": f"multipart/form-data; charset=utf-16; boundary={BOUNDARY}"},
        {"Content-Type": f"multipart/form-data; boundary=a {BOUNDARY}"},
        {"Content-Type": "multipart/form-data; boundary=" + "b" * 71},
        {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "content-type": f"multipart/form-data; boundary={BOUNDARY}"},
    ],
)
def test_an_odd_content_type_is_refused(headers: dict[str, str]) -> None:
    """Which boundary counts must be beyond doubt."""
    assert "Content-Type" in refusal(body_of(part("a")), headers)


END = f"--{BOUNDARY}--".encode()
PLAIN = body_of(part("a"))
ODD_NAMES = [
    *("form-data", "inline", 'form-data; name=""', "form-data; name=a b", "form-data; name*=utf-8''a", 'attachment; name="a"'),
    *('form-data; name="a"; name="b"', 'form-data; filename="x"; name="a"', 'form-data; name="a"; filename="x\\"y"'),
    *('form-data; name="a\\"b"', 'form-data; name=" a"', 'form-data; name="a%62"', 'form-data; name="a;b"', 'form-data; name="\u00e4"'),
]
ODD_HEADERS = [
    *("no header", ": x", " folded", "X: \x00", "X: " + "y" * 5000, "Content-Transfer-Encoding: base64"),
    *('Content-Disposition: form-data; name="b"', "Content-Type: text/plain;charset=utf-16"),
    "Content-Type: text/plain; charset=utf-16; charset=utf-8",
]


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{}", END, END + b"\r\n", b"\r\n" + PLAIN, b"preamble\r\n" + PLAIN, PLAIN + b"epilogue", PLAIN + part("b")),
        *(part("a"), part("a")[:-2], PLAIN.replace(b"\r\n", b"\n"), body_of(part("a"), END[:-2] + b" \r\n\r\n")),
        *(body_of(part("a", b"x\r\n" + END[:-2] + b"x\r\ny")), body_of(part("a", b"\xff")), body_of(END[:-2] + b"\r\n\r\n\r\n")),
        *(PLAIN.replace(b"y\r\nContent", odd + b"Content") for odd in [b"yXY", b"y \r\n", b"y\n\n"]),
        *(body_of(part("a"), part("a")), body_of(part("a"), file_part("a", b"1")), body_of(*(part(f"n{n}") for n in range(PARTS_MAX + 1)))),
        *(body_of(part("", disposition=odd)) for odd in ODD_NAMES),
        *(body_of(part("a", head=odd + "\r\n")) for odd in ODD_HEADERS),
    ],
    ids=lambda body: repr(body[:60]),
)
def test_a_form_that_could_be_read_in_two_ways_is_refused(body: bytes) -> None:
    """What comes before, after, twice, encoded, quoted oddly or torn."""
    refusal(body)


@pytest.mark.parametrize(
    "body",
    [
        *(PLAIN, PLAIN[:-2], body_of(part("a", b""))),
        body_of(part("", disposition="form-data; name=a", head="Content-Type: text/plain; charset=utf-8\r\n")),
    ],
)
def test_a_plain_form_is_read(body: bytes) -> None:
    """With or without a line end behind the last boundary, with a field that is empty, and as .NET's client writes it."""
    assert read_form(body, HEADERS).texts.keys() == {"a"}


def test_what_common_clients_write_is_read() -> None:
    """A form as httpx builds it, with a file name that is not ASCII."""
    files = {"file": ("\u00e9 'x'.wav", b"RIFF", "audio/wav"), "image[]": ("b.png", b"PNG")}
    request = httpx2.Request("POST", "http://x", data={"model": "m", "prompt": "\u00fc\r\n"}, files=files)
    form = read_form(request.read(), request.headers)
    assert form.texts == {"model": "m", "prompt": "\u00fc\r\n"}
    assert (list(form.files("file")), list(form.files("image"))) == ([b"RIFF"], [b"PNG"])


def test_an_edit_changes_a_field_or_adds_one() -> None:
    """All other bytes stay where they are."""
    body = body_of(part("model", b"alias"), file_part("file", b"\x00\xff"))
    edited = read_form(body, HEADERS).with_texts({"model": "real", "stream_include_usage": "true"})
    assert edited == body_of(part("model", b"real"), file_part("file", b"\x00\xff"), part("stream_include_usage", b"true"))
    assert read_form(body, HEADERS).with_texts({}) == body


def test_fields_are_read_as_what_they_are() -> None:
    """Truth in the spellings that servers take, whole numbers, and texts."""
    document = read_fields({"stream": "True", "n": "10", "prompt": "7", "a": "0"}, flags=("stream", "a", "b"), numbers=("n",))
    assert document == {"stream": True, "n": 10, "prompt": "7", "a": False}


@pytest.mark.parametrize(
    "texts", [{"stream": "maybe"}, {"n": "ten"}, {"n": "-1"}, {"n": ""}, {"n": "1.0"}, {"n": "\u0661"}, {"n": "1" * 13}]
)
def test_a_field_of_another_kind_is_refused(texts: dict[str, str]) -> None:
    """What a server might take for something is not guessed at."""
    with pytest.raises(Refusal):
        read_fields(texts, flags=("stream",), numbers=("n",))


NAMES = st.text("abC.-_[", min_size=1, max_size=8)
VALUES = st.binary(max_size=30) | st.sampled_from([b"\r\n", b"--", b"\r\n--", b"\r\n--b0undar", b"--b0undary", b"\r\n\r\n"])


@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=4))
def test_another_parser_reads_the_same(values: dict[str, bytes]) -> None:
    """Whatever passes here has the same names and contents for the standard library's parser."""
    body = body_of(*(file_part(name, value) for name, value in values.items()))
    try:
        form = read_form(body, HEADERS)
    except Refusal:
        assert any(b"--" + BOUNDARY.encode() in value for value in values.values())
        return
    assert {name: bytes(form.files(name)[0]) for name in values} == values
    head = f"Content-Type: {HEADERS['Content-Type']}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    theirs = {
        part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
        for part in message.walk()
        if part is not message
    }
    assert theirs == values


@given(st.binary(max_size=20), st.integers(0, 200), st.integers(0, 20))
def test_no_bytes_do_anything_but_pass_or_be_refused(noise: bytes, place: int, removed: int) -> None:
    """A form damaged anywhere is read or refused, and never read as more than it holds."""
    body = body_of(part("model", b"m"), file_part("file", b"RIFF"))
    damaged = body[:place] + noise + body[place + removed :]
    with contextlib.suppress(Refusal):
        form = read_form(damaged, HEADERS)
        assert form.with_texts({}) == damaged
        files = [file for name in form.file_names for file in form.files(name)]
        assert sum(map(len, [*form.texts.values(), *files])) <= len(damaged)
