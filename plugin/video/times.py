"""Times in text, in seconds or as on a clock."""

from fractions import Fraction

from splatmend.core import InputError

__all__ = ["seconds"]


def seconds(text: str) -> Fraction:
    """Read 12.5, 1:30 or 1:02:03.5 as exact seconds.

    Raises:
        InputError: the text is not a time.
    """
    try:
        total = Fraction(0)
        for part in text.split(":"):
            total = total * 60 + Fraction(part)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"{text!r} is not a time: use 12.5 or 1:02:03.5") from None
    return total
