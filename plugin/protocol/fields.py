"""Typed access to the JSON object that heads a message.

A read returns a value of the stated type and range, or raises a `ProtocolError` that names the
field. Unknown keys are ignored, so additions need no new version.
"""

import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from splatmend.plugin.protocol.framing import Buffer, ProtocolError

__all__ = ["LONGEST_TEXT", "Fields", "parse_header"]

LONGEST_TEXT = 256
_LONGEST_LIST = 64


def parse_header(header: Buffer) -> "Fields":
    """Parse the JSON object of a message.

    Raises:
        ProtocolError: the header is not UTF-8, not JSON, or not an object.
    """
    try:
        values = _DECODER.decode(str(header, "utf-8"))
    # deep nesting ends the parser with RecursionError, too many digits with ValueError
    except (ValueError, RecursionError) as error:
        reason = str(error)[:200]
        raise ProtocolError("bad_header", f"the header is no JSON object: {reason}") from error
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise ProtocolError("bad_header", f"the header must be a JSON object, got a {kind}")
    return Fields(values)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)  # made once: it takes microseconds


class Fields:
    """Reads one JSON object; `inside` is its path in error messages.

    Every reading method raises ProtocolError if the value does not match its docstring, or if it
    is absent and has no default.
    """

    def __init__(self, values: Mapping[str, Any], inside: str = "") -> None:
        self._values = values
        self._inside = inside

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None  # null is the same as absent

    def text(self, key: str, default: str | None = None) -> str:
        """Read a string of at most 256 printable characters, safe to show on a terminal."""
        value: Any = self._values.get(key)
        if value is None:
            value = default
        if not isinstance(value, str) or len(value) > LONGEST_TEXT or not value.isprintable():
            self._refuse(key, f"text of at most {LONGEST_TEXT} printable characters", value)
        return value

    def choice(self, key: str, allowed: Sequence[str], default: str | None = None) -> str:
        """Read one of `allowed`."""
        value: Any = self._values.get(key)
        if value is None:
            value = default
        if not isinstance(value, str) or value not in allowed:
            self._refuse(key, f"one of {', '.join(allowed)}", value)
        return value

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """Read a whole number from `low` to `high`."""
        value: Any = self._values.get(key)
        if value is None:
            value = default
        if type(value) is not int or not low <= value <= high:
            self._refuse(key, f"a whole number from {low} to {high}", value)
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """Read a number from `low` to `high`."""
        value: Any = self._values.get(key)
        if value is None:
            value = default
        if type(value) not in (int, float) or not low <= value <= high:
            self._refuse(key, f"a number from {low:g} to {high:g}", value)
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Read true or false."""
        value: Any = self._values.get(key)
        if value is None:
            value = default
        if type(value) is not bool:
            self._refuse(key, "true or false", value)
        return value

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        """Read exactly `count` finite numbers."""
        value: Any = self._values.get(key)
        if not isinstance(value, list) or len(value) != count or not all(map(_is_finite, value)):
            self._refuse(key, f"a list of {count} finite numbers", value)
        return tuple(map(float, value))

    def integers(self, key: str, low: int, high: int) -> tuple[int, ...]:
        """Read a list of at most 64 whole numbers from `low` to `high`."""
        value: Any = self._values.get(key)
        whole = isinstance(value, list) and len(value) <= _LONGEST_LIST
        if not whole or not all(type(v) is int and low <= v <= high for v in value):
            self._refuse(key, f"a list of whole numbers from {low} to {high}", value)
        return tuple(value)

    def texts(self, key: str) -> tuple[str, ...]:
        """Read a list of at most 64 strings; empty if the key is absent."""
        value: Any = self._values.get(key)
        if value is None:
            value = []
        whole = isinstance(value, list) and len(value) <= _LONGEST_LIST
        if not whole or not all(isinstance(v, str) and len(v) <= LONGEST_TEXT for v in value):
            self._refuse(key, "a list of short texts", value)
        return tuple(value)

    def object(self, key: str) -> "Fields":
        """Read an object inside this one."""
        value: Any = self._values.get(key)
        if not isinstance(value, dict):
            self._refuse(key, "an object", value)
        return Fields(value, f"{self._inside}{key}.")

    def objects(self, key: str, most: int) -> list["Fields"]:
        """Read a list of at most `most` objects; empty if the key is absent."""
        value: Any = self._values.get(key)
        if value is None:
            value = []
        whole = isinstance(value, list) and len(value) <= most
        if not whole or not all(isinstance(v, dict) for v in value):
            self._refuse(key, f"a list of at most {most} objects", value)
        return [Fields(v, f"{self._inside}{key}[{i}].") for i, v in enumerate(value)]

    def plain(self, key: str) -> dict[str, Any]:
        """Read an object to hand on as it is; its numbers are finite."""
        value: Any = self._values.get(key)
        if not isinstance(value, dict) or not _is_strict(value):
            self._refuse(key, "an object of finite numbers", value)
        return value

    def source(self, key: str) -> str:
        """Return a text that identifies the value: only equal values have equal texts."""
        try:
            return repr(self._values.get(key))
        except RecursionError:
            self._refuse(key, "less deeply nested", "more")

    def _refuse(self, key: str, allowed: str, value: Any) -> NoReturn:
        came = "nothing" if value is None else reprlib.repr(value)  # shallow: the peer may nest
        raise ProtocolError("bad_header", f"{self._inside}{key} must be {allowed}, got {came}")


def _is_finite(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an integer beyond the floats
        return False


def _is_strict(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)  # 1e999 is read as infinity
    except (ValueError, RecursionError):
        return False
    return True
