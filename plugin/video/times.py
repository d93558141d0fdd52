"""Times as people write them, in seconds or as a clock shows them."""

from fractions import Fraction

from splatmend.core import InputError

__all__ = ["seconds"]


def seconds(text: str) -> Fraction:
    """Read 12.5, 1:30 or 1:02:03.5 as exact seconds.

    Raises:
        InputError: it is none of these.
    """
    try:
        total = Fraction(0)
        for part in text.split(":"):
            total = total * 60 + Fraction(part)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"{text!r} is no time: use 12.5 or 1:02:03.5") from None
    return total
