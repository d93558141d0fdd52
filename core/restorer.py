"""The contract of every restorer, and the restorers that need no weights.

A restorer takes float RGB (n, 3, h, w) in [0, 1] with any h and w from 1 up. It
returns the same shape, dtype and device, in [0, 1]. It pads and crops by itself
and computes in a precision of its own. It uses no random state and keeps
nothing between calls: the same input gives the same bytes.
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
    """Properties of a restorer; a wrapper passes on those of the restorer inside."""

    name: str
    """Short name for tables and logs."""
    _: KW_ONLY
    multiple: int = 1
    """Pictures need no padding where this divides both sides, in pixels."""
    period: int = 1
    """Crops whose corners lie on multiples of this, in pixels, see the whole picture's grid."""
    reach: int = 0
    """Largest distance in pixels from an input pixel to an output pixel that it changes."""
    keeps_colors: bool = False
    """Whether its residual has no low frequencies, so that it needs no colour lock."""
    small: int = 0
    """Longest side in pixels of frames that are better restored at twice their size; 0: none."""
    takes_guidance: bool = False
    """Whether it is a `GuidedRestorer`, which fuses guidance by itself."""


@runtime_checkable
class Restorer(Protocol):
    """Maps frames to frames; knows nothing of time, files or alpha."""

    @property
    def traits(self) -> RestorerTraits:
        """Return the properties that callers rely on."""
        ...

    @property
    def device(self) -> torch.device:
        """Return the preferred device of input; input on others is accepted."""
        ...

    def __call__(self, rgb: Tensor) -> Tensor:
        """Restore (n, 3, h, w) in [0, 1]; the module states the contract.

        Raises:
            InputError: another shape, a dtype that is not floating, or no pixels.
        """
        ...


class GuidedRestorer(Restorer, Protocol):
    """A restorer that fuses guidance from references by itself."""

    def __call__(self, rgb: Tensor, guidance: Guidance | None = None) -> Tensor:
        """Restore (n, 3, h, w), with guidance of the same size where there is some."""
        ...


def takes_guidance(restorer: Restorer) -> TypeGuard[GuidedRestorer]:
    """Tell whether a restorer fuses guidance by itself."""
    return restorer.traits.takes_guidance


def restore_guided(restorer: Restorer, rgb: Tensor, guidance: Guidance | None) -> Tensor:
    """Restore (n, 3, h, w) by any restorer with guidance of the same size.

    With exact guidance, or a restorer that does not fuse guidance, the answer is blended with the
    proposed change by the confidence. Where the confidence is 0 the answer stays as it is.
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
    # a reference's detail may be misplaced, and no network checks it here
    return torch.lerp(restored, proposed, trust if guidance.exact else trust.square())


def checked(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Wrap a restorer's `__call__`: refuse input outside the contract, clamp to [0, 1]."""

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
    """A restorer around a network that predicts the residual of padded pictures."""

    traits: RestorerTraits
    network: nn.Module
    device: torch.device

    @checked
    def __call__(self, rgb: Tensor, guidance: Guidance | None = None) -> Tensor:
        """Restore; the network computes in the precision of its weights, the rest in float32."""
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
    """A restorer that returns its input, to measure everything around a restorer."""

    device: torch.device
    traits: RestorerTraits = RestorerTraits("copy", keeps_colors=True)

    @checked
    def __call__(self, rgb: Tensor) -> Tensor:
        """Return a copy of `rgb`."""
        return rgb.clone()


@dataclass(frozen=True)
class UnsharpMask:
    """An unsharp mask, x + amount * (x - blur(x)): the baseline for learned restorers."""

    device: torch.device
    amount: float = 1.0
    sigma: float = 1.5

    @property
    def traits(self) -> RestorerTraits:
        """Return the properties; the reach is the radius of the blur."""
        return RestorerTraits("unsharp", reach=blur_radius(self.sigma), keeps_colors=True)

    @checked
    def __call__(self, rgb: Tensor) -> Tensor:
        """Sharpen by the difference from a Gaussian blur."""
        source = rgb.float()
        return (source + self.amount * (source - blur(source, self.sigma))).to(rgb.dtype)
