"""Restoration of frames: alpha, strength, references and the colour lock, for all callers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from splatmend.core.color_lock import lock_colors
from splatmend.core.errors import InputError
from splatmend.core.frame import Frame
from splatmend.core.pixels import from_tensor, to_tensor
from splatmend.core.references import Choice, Guidance, Guide, Guided, References
from splatmend.core.restorer import Restorer, restore_guided, takes_guidance

__all__ = [
    "LaidOut",
    "RestoreOptions",
    "alpha_box",
    "as_guide",
    "guide_frame",
    "guide_picture",
    "lay_out",
    "restore_frames",
    "restore_pixels",
    "take_back",
]

_BOX_GRID = 64  # pixels; on this grid a moving head rarely changes the size of the box
_BOX_PAD = 32  # pixels of context for the network around the visible part


@dataclass(frozen=True)
class RestoreOptions:
    """Strength, colour lock, magnification and matte of a restoration.

    >>> RestoreOptions(strength=0.5).strength
    0.5
    >>> RestoreOptions(strength=2)
    Traceback (most recent call last):
    ...
    splatmend.core.errors.InputError: strength must lie in [0, 1], got 2

    Raises:
        InputError: strength outside [0, 1], or magnify below 1.
    """

    strength: float = 1.0
    """Share of the residual to apply: 0 returns the input, 1 the full restoration."""
    color_lock: bool = True
    """Whether to keep the input's low frequencies, so that colours neither shift nor drift."""
    magnify: int | None = None
    """Factor by which a frame is enlarged for the network; None: 2 for small frames, else 1."""
    matte: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """RGB in [0, 1] behind frames with alpha; the networks were trained on white."""

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise InputError(f"strength must lie in [0, 1], got {self.strength}")
        if self.magnify is not None and self.magnify < 1:
            raise InputError(f"magnify must be a whole number from 1 on, got {self.magnify}")

    def sized(self, restorer: Restorer, size: tuple[int, int]) -> "RestoreOptions":
        """Return the same options with `magnify` decided for frames of (height, width).

        The size of the frame decides, not that of the restored part, which changes as a head
        moves.
        """
        if self.magnify is not None:
            return self
        return replace(self, magnify=2 if max(size) <= restorer.traits.small else 1)


@dataclass(frozen=True, eq=False)
class LaidOut:
    """The visible part of a frame, opaque, as the network sees it."""

    box: tuple[slice, slice]
    """Rows and columns of the part."""
    rgb: Tensor
    """(1, 3, h, w) in [0, 1], on the matte where the frame has alpha."""


def restore_pixels(
    restorer: Restorer, rgb: Tensor, options: RestoreOptions, guidance: Guidance | None = None
) -> Tensor:
    """Restore opaque (n, 3, h, w) in [0, 1] by the options; same shape, dtype and device."""
    if options.strength == 0:
        return rgb.clone()
    times = options.sized(restorer, (rgb.shape[2], rgb.shape[3])).magnify or 1
    if times == 1:
        restored = restore_guided(restorer, rgb, guidance)
    else:
        restored = _enlarged(restorer, rgb, times, guidance)
    exact = guidance is not None and guidance.exact
    keeps = restorer.traits.keeps_colors and (guidance is None or takes_guidance(restorer))
    lock = options.color_lock and not keeps and not exact
    if options.strength == 1 and not lock:
        return restored
    residual = restored - rgb
    if lock:
        residual = lock_colors(residual)
    return (rgb + options.strength * residual).clamp(0, 1)


def _enlarged(restorer: Restorer, rgb: Tensor, times: int, guidance: Guidance | None) -> Tensor:
    """Restore an enlarged picture and add the change, averaged back to the picture's size."""
    source = rgb.float()

    def enlarged(plane: Tensor) -> Tensor:
        return F.interpolate(plane.float(), scale_factor=times, mode="bicubic")

    large = enlarged(source).clamp(0, 1)
    if guidance is not None:
        wide = guidance.map(enlarged)
        view = None if wide.view is None else wide.view.clamp(0, 1)
        guidance = replace(wide, confidence=wide.confidence.clamp(0, 1), view=view)
    residual = F.avg_pool2d(restore_guided(restorer, large, guidance) - large, times)
    return (source + residual).clamp(0, 1).to(rgb.dtype)


def as_guide(references: References | Guide | None, options: RestoreOptions) -> Guide | None:
    """Make a guide of plain references, with the matte of the options."""
    if isinstance(references, References):
        return Guide(references, matte=options.matte)
    return references


def guide_picture(
    guide: Guide,
    rgb: Tensor,
    before: Choice = (),
    *,
    subject: tuple[slice, slice] | None = None,
) -> Guided:
    """Guide one opaque picture (1, 3, h, w) in [0, 1]; the guidance is on its device.

    In a stream `before` is the choice for the last frame. `subject` is the part of the picture
    that shows the person, if it is known.
    """
    guided = guide.guide(from_tensor(rgb, np.uint8)[0], before, subject=subject)
    return _mapped(guided, lambda plane: plane.to(rgb.device))


def guide_frame(
    guide: Guide, frame: Frame, laid_out: LaidOut, options: RestoreOptions, before: Choice = ()
) -> Guided:
    """Guide a frame after `lay_out`; see `guide_picture`.

    The guidance is computed on the whole frame and then cut to the part. References show whole
    frames too, and their placement must not change when the part moves.
    """
    if frame.alpha is None:
        return guide_picture(guide, laid_out.rgb, before)
    whole = (slice(0, frame.size[0]), slice(0, frame.size[1]))
    shown = _on_matte(frame, whole, options, torch.device("cpu"))
    shown[..., *laid_out.box] = laid_out.rgb.to("cpu")
    guided = guide_picture(guide, shown, before, subject=laid_out.box)
    device, part = laid_out.rgb.device, (..., *laid_out.box)
    return _mapped(guided, lambda plane: plane[part].to(device))


def _mapped(guided: Guided, function: Callable[[Tensor], Tensor]) -> Guided:
    return replace(guided, guidance=guided.guidance.map(function))


def restore_frames(
    restorer: Restorer,
    frames: Sequence[Frame],
    options: RestoreOptions | None = None,
    *,
    references: References | Guide | None = None,
) -> list[Frame]:
    """Restore frames of one size as a batch; planes other than colour pass through.

    Frames with alpha are put on the matte and restored inside the box of their visible pixels.
    Premultiplied frames come back premultiplied. Alpha is never changed, and where it is 0
    the colour is the input's, bit for bit.

    `references` are pictures of the person; each frame is guided by itself. Pass a `Guide` to
    prepare them once for many calls.

    >>> import numpy as np
    >>> from splatmend.core.restore.registry import load_restorer
    >>> frame = Frame(color=np.zeros((64, 64, 3), np.uint8))
    >>> restore_frames(load_restorer("compact", device="cpu"), [frame])
    [Frame(color (64, 64, 3) uint8, pts=None, stream_id='')]

    Raises:
        InputError: no frame, or frames of several sizes or dtypes.
    """
    if not frames:
        raise InputError("restore_frames needs at least one frame, got none")
    kinds = {(f.size, f.color.dtype, f.alpha is None, f.alpha_kind) for f in frames}
    if len(kinds) > 1:
        raise InputError(
            f"restore_frames needs frames of one size, dtype and alpha, got {len(kinds)} kinds: "
            f"call it once for each"
        )
    options = (options or RestoreOptions()).sized(restorer, frames[0].size)
    guide = as_guide(references, options)
    if frames[0].alpha is not None:
        return [_restore_with_alpha(restorer, frame, options, guide) for frame in frames]
    rgb = to_tensor([f.color for f in frames], restorer.device)
    guidance = None if guide is None else _guide_all(guide, rgb)
    colors = from_tensor(restore_pixels(restorer, rgb, options, guidance), frames[0].color.dtype)
    return [frame.with_color(color) for frame, color in zip(frames, colors, strict=True)]


def lay_out(frame: Frame, options: RestoreOptions, device: torch.device) -> LaidOut | None:
    """Return the visible part of a frame, opaque; None where no pixel is visible."""
    if frame.alpha is None:
        whole = (slice(0, frame.size[0]), slice(0, frame.size[1]))
        return LaidOut(whole, to_tensor([frame.color], device))
    box = alpha_box(frame.alpha)
    if box is None:
        return None
    return LaidOut(box, _on_matte(frame, box, options, device))


def _on_matte(
    frame: Frame, part: tuple[slice, slice], options: RestoreOptions, device: torch.device
) -> Tensor:
    """Put a part of a frame with alpha on the matte, (1, 3, h, w) in [0, 1]."""
    assert frame.alpha is not None
    color, alpha = to_tensor([frame.color[part]], device), to_tensor([frame.alpha[part]], device)
    over = color if frame.alpha_kind == "premultiplied" else color * alpha
    matte = color.new_tensor(options.matte).view(1, 3, 1, 1)
    return (over + matte * (1 - alpha)).clamp(0, 1)


def take_back(frame: Frame, laid_out: LaidOut, restored: Tensor) -> Frame:
    """Put the restored part (1, 3, h, w) back into its frame; alpha stays the same."""
    if frame.alpha is None:
        return frame.with_color(_one(restored, frame.color.dtype))
    box, device = laid_out.box, restored.device
    color, alpha = to_tensor([frame.color[box]], device), to_tensor([frame.alpha[box]], device)
    premultiplied = frame.alpha_kind == "premultiplied"
    residual = restored - laid_out.rgb
    # the network saw the colour through alpha; the colour itself moves by no more than the
    # residual, so that a faint rim cannot blow up
    mended = color + residual * (alpha if premultiplied else 1)
    limit = alpha if premultiplied else torch.ones_like(alpha)
    # a renderer's own colour may exceed alpha (glow): never clamp below the input
    mended = torch.minimum(mended.clamp(min=0), torch.maximum(limit, color))
    whole = frame.color.copy()
    whole[box] = np.where(
        frame.alpha[box][..., None] == 0, frame.color[box], _one(mended, frame.color.dtype)
    )
    return frame.with_color(whole)


def _restore_with_alpha(
    restorer: Restorer, frame: Frame, options: RestoreOptions, guide: Guide | None
) -> Frame:
    laid_out = lay_out(frame, options, restorer.device)
    if laid_out is None or options.strength == 0:
        return frame
    guidance = None
    if guide is not None:
        guided = guide_frame(guide, frame, laid_out, options)
        guide.count(guided)
        guidance = guided.guidance
    return take_back(frame, laid_out, restore_pixels(restorer, laid_out.rgb, options, guidance))


def _guide_all(guide: Guide, rgb: Tensor) -> Guidance:
    """Guide each of (n, 3, h, w) by itself."""
    each = []
    for picture in rgb:
        guided = guide_picture(guide, picture[None])
        guide.count(guided)
        each.append(guided.guidance)
    if any(g.view is not None for g in each):  # a picture as its own view changes nothing
        each = [
            g if g.view is not None else replace(g, view=picture[None].float())
            for g, picture in zip(each, rgb, strict=True)
        ]
    return Guidance.joined(each)


def _one(tensor: Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
    return from_tensor(tensor, dtype)[0]


def alpha_box(alpha: NDArray[Any]) -> tuple[slice, slice] | None:
    """Return the padded box around visible pixels, on a grid of 64; None where there are none."""
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    if not rows.size:
        return None

    def side(first: int, last: int, length: int) -> slice:
        low = (first - _BOX_PAD) // _BOX_GRID * _BOX_GRID
        high = -(-(last + 1 + _BOX_PAD) // _BOX_GRID) * _BOX_GRID
        return slice(max(0, low), min(length, high))

    return (
        side(int(rows[0]), int(rows[-1]), alpha.shape[0]),
        side(int(columns[0]), int(columns[-1]), alpha.shape[1]),
    )
