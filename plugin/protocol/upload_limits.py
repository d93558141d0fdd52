"""Limits of references that clients send: the server checks them, the client packs by them."""

from dataclasses import dataclass

from splatmend.core.errors import InputError

__all__ = ["UploadLimits"]


@dataclass(frozen=True)
class UploadLimits:
    """Limits of the references that clients send."""

    pictures: int = 16
    """Pictures of one client; both pictures of a pair count. 0: clients may send none."""
    side: int = 2048
    """Pixels; longest side of a picture."""
    bytes: int = 32 << 20
    """Bytes of all pictures of one client together, as sent."""
    memory: int = 512 << 20
    """Bytes of all clients' pictures together, decoded."""

    def __post_init__(self) -> None:
        if not 0 <= self.pictures <= 64:
            raise InputError(
                f"a client may send 0 to 64 reference pictures, got {self.pictures} as the limit"
            )
