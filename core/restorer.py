"""The contract that every restorer keeps, and the restorers that ship with the package.

A restorer takes float RGB (n, 3, h, w) in [0, 1], any h and w from 1 up, and
returns the same shape, dtype and device, in [0, 1]. It pads and crops by itself,
computes in a precision of its own, reads and writes no random state, and keeps
nothing between calls: same input, same bytes out.
"""

import functools
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor, nn

from splatmend.core.errors import InputError
from splatmend.core.guidance import Guidance
from splatmend.core.pixels import crop_to, pad_to_multiple
from splatmend.core.resample import blur, blur_radius

__all__ = [
    "Copy",
    "GuidedRestorer",
    "NetworkRestorer",
    "Restorer",
    "RestorerTraits",
    "UnsharpMask",
    "checked",
    "restore_guided",
    "takes_guidance",
]


@dataclass(frozen=True)
class RestorerTraits:
    """What a restorer says of itself; one that wraps another passes them on."""

    name: str
    """Short, for tables and logs."""
    _: KW_ONLY
    multiple: int = 1
    """Sides that this divides need no padding."""
    period: int = 1
    """Crops whose corners lie on multiples of this see the same grid as the whole picture."""
    reach: int = 0
    """How many pixels away an input pixel can still change an output pixel."""
    keeps_colors: bool = False
    """Whether its residual has no low frequencies, so that a colour lock has nothing to do."""
    small: int = 0
    """Longest side of frames that come out better restored at twice their size; 0: none."""
    takes_guidance: bool = False
    """Whether it fuses by itself what references propose, as a `GuidedRestorer`."""


@runtime_checkable
class Restorer(Protocol):
    """Maps frames to frames; knows nothing of time, files or alpha."""

    @property
    def traits(self) -> RestorerTraits:
        """What its callers must know of it."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it wants its input."""
        ...

    def __call__(self, rgb: Tensor) -> Tensor:
        """Restore (n, 3, h, w) in [0, 1]; see the module's contract.

        Raises:
            InputError: another shape, a dtype that is not floating, or no pixels.
        """
        ...


class GuidedRestorer(Restorer, Protocol):
    """A restorer that fuses what references propose by itself."""

    def __call__(self, rgb: Tensor, guidance: Guidance | None = None) -> Tensor:
        """Restore (n, 3, h, w); without guidance as any other restorer."""
        ...


def takes_guidance(restorer: Restorer) -> TypeGuard[GuidedRestorer]:
    """Whether a restorer fuses guidance by itself."""
    return restorer.traits.takes_guidance


def restore_guided(restorer: Restorer, rgb: Tensor, guidance: Guidance | None) -> Tensor:
    """Restore (n, 3, h, w) with guidance of the same size; any restorer can.

    One that fuses nothing by itself is blended with what the references propose, by their
    confidence: where that is 0 its answer stands.
    """
    if guidance is None:
        return restorer(rgb)
    if takes_guidance(restorer):
        restored = restorer(rgb, guidance)
        if not guidance.exact:
            return restored
    else:
        restored = restorer(rgb)
    proposed = (rgb + guidance.change.to(rgb)).clamp(0, 1)
    trust = guidance.confidence.to(rgb)
    # a picture's detail may lie beside its place, and no network looks at it here
    return torch.lerp(restored, proposed, trust if guidance.exact else trust.square())


def checked(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Refuse what the contract excludes before a restorer's `__call__` sees it."""

    @functools.wraps(call)
    def wrapper(self: Restorer, rgb: Tensor, *guidance: Guidance | None) -> Tensor:
        if rgb.ndim != 4 or rgb.shape[1] != 3 or min(rgb.shape) < 1:
            raise InputError(f"a restorer takes RGB as (n, 3, h, w), got {tuple(rgb.shape)}")
        if not rgb.is_floating_point():
            raise InputError(
                f"a restorer takes floats in [0, 1], got {rgb.dtype}: convert with "
                f"splatmend.core.to_tensor"
            )
        with torch.inference_mode():
            return call(self, rgb, *guidance).clamp(0, 1)

    return wrapper


@dataclass(frozen=True)
class NetworkRestorer:
    """A network that predicts the residual of pictures whose sides `traits.multiple` divides."""

    traits: RestorerTraits
    network: nn.Module
    device: torch.device

    @checked
    def __call__(self, rgb: Tensor, guidance: Guidance | None = None) -> Tensor:
        """Restore; the network computes in its weights' precision, the rest is float32."""
        source = rgb.to(self.device, torch.float32).contiguous()
        padded = pad_to_multiple(source, self.traits.multiple)
        if guidance is not None and self.traits.takes_guidance:
            residual = self.network(padded, guidance.map(self._as_padded))
        else:
            residual = self.network(padded)
        restored = source + crop_to(residual.float(), (rgb.shape[2], rgb.shape[3]))
        return restored.to(rgb.device, rgb.dtype).contiguous()

    def _as_padded(self, plane: Tensor) -> Tensor:
        plane = plane.to(self.device, torch.float32).contiguous()
        return pad_to_multiple(plane, self.traits.multiple)


@dataclass(frozen=True)
class Copy:
    """Returns its input: what everything around a restorer costs and changes."""

    device: torch.device
    traits: RestorerTraits = RestorerTraits("copy", keeps_colors=True)

    @checked
    def __call__(self, rgb: Tensor) -> Tensor:
        """A copy of `rgb`."""
        return rgb.clone()


@dataclass(frozen=True)
class UnsharpMask:
    """x + amount * (x - blur(x)): the yardstick that any learned restorer must beat."""

    device: torch.device
    amount: float = 1.0
    sigma: float = 1.5

    @property
    def traits(self) -> RestorerTraits:
        """It reaches as far as its blur."""
        return RestorerTraits("unsharp", reach=blur_radius(self.sigma), keeps_colors=True)

    @checked
    def __call__(self, rgb: Tensor) -> Tensor:
        """Sharpen by the difference to a Gaussian blur."""
        source = rgb.float()
        return (source + self.amount * (source - blur(source, self.sigma))).to(rgb.dtype)
