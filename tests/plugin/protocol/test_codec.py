"""SMP/1: the conformance vectors, arbitrary bytes, and pixels there and back."""

import importlib.util
import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splatmend.core import InputError
from splatmend.plugin.protocol.codec import encode, parse
from splatmend.plugin.protocol.fields import parse_header
from splatmend.plugin.protocol.frames import to_frame, to_result
from splatmend.plugin.protocol.framing import (
    MAGIC,
    Limits,
    ProtocolError,
    join,
    reading,
    receive,
    split,
)
from splatmend.plugin.protocol.messages import (
    DROP_REASONS,
    ERROR_CODES,
    MODES,
    ErrorReply,
    FrameRequest,
    Want,
)
from splatmend.plugin.protocol.plane_formats import FORMATS, PLANE_NAMES

VECTORS = Path(__file__).with_name("vectors")
SMP1 = json.loads((VECTORS / "smp1.json").read_text(encoding="utf-8"))
LIMITS = Limits()
VALID = [bytes.fromhex(v["hex"]) for v in SMP1["messages"]]


def named(kind: str) -> Any:
    return pytest.mark.parametrize("vector", SMP1[kind], ids=lambda v: v["name"])


def decode(message: bytes) -> Any:
    return parse(split(message, LIMITS), LIMITS)


@named("messages")
def test_valid_vectors(vector: dict[str, Any]) -> None:
    parts = split(bytes.fromhex(vector["hex"]), LIMITS)
    assert json.loads(bytes(parts[0])) == vector["header"]
    assert [bytes(p).hex() for p in parts[1:]] == vector["planes"]
    message = parse(parts, LIMITS)
    again = encode(message)
    assert json.loads(again[0]) == vector["header"]
    assert parse(again, LIMITS) == message
    assert b"".join(join(parts)).hex() == vector["hex"]


@named("invalid")
def test_invalid_vectors(vector: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(bytes.fromhex(vector["hex"]))
    assert caught.value.code == vector["code"]
    assert vector["code"] in ERROR_CODES
    assert isinstance(caught.value, InputError)


def test_the_vectors_are_what_the_code_writes() -> None:
    spec = importlib.util.spec_from_file_location("make_smp1", VECTORS / "make_smp1.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.text() == (VECTORS / "smp1.json").read_text(encoding="utf-8")


def test_the_documentation_names_everything() -> None:
    text = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text()
    words = (*ERROR_CODES, *DROP_REASONS, *MODES, *FORMATS, *PLANE_NAMES)
    assert [word for word in words if f"`{word}`" not in text] == []
    keys = {key for vector in SMP1["messages"] for key in vector["header"]}
    planes = [plane for v in SMP1["messages"] for plane in v["header"].get("planes", [])]
    keys |= {key for plane in planes if isinstance(plane, dict) for key in plane}
    assert [key for key in keys if f"`{key}`" not in text and f'"{key}"' not in text] == []


def test_a_bad_frame_keeps_its_id() -> None:
    header = {"t": "frame", "id": 7, "w": 2, "h": 2, "planes": []}
    with pytest.raises(ProtocolError) as caught:
        parse([json.dumps(header).encode()], LIMITS)
    assert caught.value.id == 7
    with pytest.raises(ProtocolError) as caught:
        parse([json.dumps({**header, "id": "seven"}).encode()], LIMITS)
    assert caught.value.id is None


def test_an_error_is_always_one_readable_line() -> None:
    text = "two\nlines \x1b[31m " + "x" * 1000
    (header,) = encode(ErrorReply(code="internal", text=text))
    message = parse([header], LIMITS)
    assert isinstance(message, ErrorReply)
    assert message.text.startswith("two lines ?[31m x")
    assert len(message.text) <= 256


def test_messages_follow_each_other_on_a_stream() -> None:
    stream = memoryview(b"".join(VALID))
    at = 0

    def read(count: int) -> memoryview:
        nonlocal at
        at += count
        return stream[at - count : at]

    for message in VALID:
        assert b"".join(join(receive(read, LIMITS))) == message
    assert at == len(stream)


def test_sizes_are_checked_before_anything_is_read() -> None:
    limits = Limits(header_bytes=100, part_bytes=1000, message_bytes=1500)
    for lengths in ((101,), (10, 1001), (10, 900, 900)):
        reader = reading(limits)
        assert next(reader) == 8
        wanted = reader.send(MAGIC + struct.pack("<I", len(lengths)))
        assert wanted == 4 * len(lengths)
        with pytest.raises(ProtocolError, match=r"at most"):
            reader.send(struct.pack(f"<{len(lengths)}I", *lengths))


def harmless(message: bytes) -> None:
    """Turns any bytes into a usable message or a ProtocolError."""
    code, parsed = "", None
    try:
        parsed = decode(message)
    except ProtocolError as error:
        code = error.code
    assert (code in ERROR_CODES) == (parsed is None)
    if parsed is None:
        return
    assert parse(encode(parsed), LIMITS) == parsed
    if isinstance(parsed, FrameRequest) and parsed.width * parsed.height < 1 << 16:
        frame = to_frame(parsed)
        assert np.isfinite(frame.color).all()
        to_result(parsed, frame, frame, Want())


def mutated(message: bytes, dice: random.Random) -> bytes:
    data = bytearray(message)
    for _ in range(dice.choice((1, 1, 2, 5))):
        at = dice.randrange(len(data) + 1)
        kind = dice.randrange(5)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            data[at:at] = dice.choice((b"0", b"9" * 30, b"null", b'"', b"-", b"1e999", b"[" * 1500))
        elif kind == 2:
            del data[at : at + dice.randrange(1, 9)]
        elif kind == 3:
            other = dice.choice(VALID)
            data[at:] = other[dice.randrange(len(other)) :]
        else:
            data[8:12] = struct.pack("<I", dice.choice((0, 1, len(data), 1 << 16, (1 << 32) - 1)))
    return bytes(data)


def test_mutated_vectors_do_no_harm() -> None:
    dice = random.Random(1)
    for _ in range(4000):
        harmless(mutated(dice.choice(VALID), dice))


def test_mutated_headers_do_no_harm() -> None:
    """Changes only the header and corrects its length, so that mutations get further in."""
    dice = random.Random(2)
    for _ in range(4000):
        header, *planes = (bytes(p) for p in split(dice.choice(VALID), LIMITS))
        harmless(b"".join(join([mutated(header, dice), *planes])))


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    vector=st.sampled_from(SMP1["messages"]),
    path=st.lists(st.integers(0, 30), min_size=1, max_size=4),
    value=JSON,
)
def test_any_field_may_hold_anything(vector: dict[str, Any], path: list[int], value: Any) -> None:
    header = json.loads(json.dumps(vector["header"]))
    inner: Any = header
    for step in path:
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = keys[step % len(keys)]
        if step is path[-1] or not (isinstance(inner[key], dict | list) and inner[key]):
            inner[key] = value
            break
        inner = inner[key]
    planes = [bytes.fromhex(p) for p in vector["planes"]]
    harmless(b"".join(join([json.dumps(header).encode("utf-8", "replace"), *planes])))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=64))
def test_any_bytes_do_no_harm(data: bytes) -> None:
    harmless(data)
    harmless(MAGIC + data)
    harmless(b"".join(join([data])))


@pytest.mark.parametrize("depth", [500, 900, 980, 990, 995, 999, 5000])
def test_nesting_does_no_harm(depth: int) -> None:
    """Also where the parser just gets through and the error text would not."""
    header = b'{"t":"frame","w":' + b"[" * depth + b"]" * depth + b"}"
    with pytest.raises(ProtocolError):
        parse([header], LIMITS)
    with pytest.raises(ProtocolError):
        parse_header(b"[" * depth + b"]" * depth)
