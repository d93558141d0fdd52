"""How much a client may send as references: the server checks it, the client packs by it."""

from dataclasses import dataclass

from splatmend.core.errors import InputError

__all__ = ["UploadLimits"]


@dataclass(frozen=True)
class UploadLimits:
    """What clients may send as references."""

    pictures: int = 16
    """Of one client; both of a pair count. 0: none may be sent."""
    side: int = 2048
    """Pixels, of either side."""
    bytes: int = 32 << 20
    """As they are sent, of all pictures together."""
    memory: int = 512 << 20
    """Bytes, decoded, of all clients together."""

    def __post_init__(self) -> None:
        if not 0 <= self.pictures <= 64:
            raise InputError(
                f"a client may send 0 to 64 reference pictures, got {self.pictures} as the limit"
            )
