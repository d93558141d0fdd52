"""Patches for rasterisers, which restore the pictures that are rendered without gradients.

Three kinds are known. Each is patched in its own module, on import:

- `GaussianRasterizer.forward` of Inria's diff_gaussian_rasterization and of its forks, under
  any package name with "rasteriz" in it or with "diff_gauss" at its start. Returns
  (image, radii, ...), the image (3, h, w) over its background.
- `rasterization` and `rasterization_2dgs` of gsplat, in gsplat.rendering and gsplat; return
  (colors, alphas, ...), colors (..., C, h, w, 3), or 4 with a depth.
- any other function, or class with a `forward`, given as "package.module:Name". It returns an
  image, or first an image, (3, h, w) or (h, w, 3).

With gradients on, as in training, only the original runs. An autograd.Function and a reentrant
checkpoint turn gradients off: start a training that rasterises inside one with plain python.

A script may also rasterise masks, depths, normals and features. No signature has a flag for that.
So a result counts as a picture unless one of these signs contradicts it:

- gsplat's render_mode is one of depth alone, or the number of colour channels is not 3;
- the call rendered several cameras, which are not a stream;
- all Gaussians have the same colour, as for a mask;
- all pixels are exactly grey, as in masks and depths, or some are far below 0, as in normals.

These signs miss features in three channels of [0, 1]. The choice "sh" leaves those alone: then
only renders from spherical harmonics are pictures.

Sources: diff_gaussian_rasterization/__init__.py (Kerbl et al. 2023), gsplat/rendering.py
(Ye et al. 2024, 1.5.3).
"""

import functools
import inspect
import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from splatmend.core.errors import InputError
from splatmend.plugin.client.wrapping import FAULTS, replace_in

__all__ = ["Colors", "Patches", "Picture", "any_picture", "gsplat_picture", "inria_picture"]

_log = logging.getLogger(__name__)

Colors = Literal["any", "sh"]
"""Allowed sources of a picture's colours: any, or spherical harmonics alone."""
_GSPLAT = ("gsplat", "gsplat.rendering")
_GSPLAT_FUNCTIONS = ("rasterization", "rasterization_2dgs")
_CLASS = "GaussianRasterizer"
_SIGNED = -0.1  # colours are clamped at 0 before they are blended


@dataclass(frozen=True, eq=False)
class Picture:
    """A rasteriser's result as a picture."""

    rgb: Tensor
    """(h, w, 3), a view; about [0, 1]."""
    alpha: Tensor | None = None
    """(h, w); `rgb` is premultiplied by it."""
    depth: Tensor | None = None
    """(h, w), expected z."""
    colors: Tensor | None = None
    """(..., n, 3) of n Gaussians, where they were given as plain colours."""


class _LeftAloneError(Exception):
    """The result is not a picture; the message names it."""


class Patches:
    """Patches modules, and counts the results of their rasterisers.

    Args:
        restore: returns a new (h, w, 3), or `picture.rgb` itself to leave the picture as it is.
        colors: "sh" accepts only pictures that are rendered from spherical harmonics.
        more: further rasterisers, "package.module:Name".

    Raises:
        InputError: a name in `more` does not have that form.
    """

    def __init__(
        self,
        restore: Callable[[Picture], Tensor],
        *,
        colors: Colors = "any",
        more: Sequence[str] = (),
    ) -> None:
        self.patched: list[str] = []
        """Names of the patched functions and classes."""
        self.counts: Counter[str] = Counter()
        """Results by outcome: restored, unrestored, or the reason why a result is not a picture."""
        self._restore = restore
        self._colors = colors
        self._more: dict[str, list[str]] = {}
        for target in more:
            module, colon, name = target.partition(":")
            if not (module and colon and name.isidentifier()):
                raise InputError(f"{target!r} is not a rasterizer: use package.module:Name")
            self._more.setdefault(module, []).append(name)
        self._made: dict[Callable[..., Any], Callable[..., Any]] = {}
        self._thread = _Thread()
        self._warned = False

    def wants(self, module_name: str) -> bool:
        """Return whether a module of that name may have something to patch."""
        if module_name in _GSPLAT or module_name in self._more:
            return True
        last = module_name.rpartition(".")[2]
        is_fork = "rasteriz" in last or last.startswith("diff_gauss")
        return is_fork and not module_name.startswith("splatmend.")

    def apply(self, module: ModuleType) -> None:
        """Patch the rasterisers of an imported module; those already patched stay so."""
        name, has = module.__name__, vars(module)
        if name in _GSPLAT:
            for function in _GSPLAT_FUNCTIONS:
                self._patch(module, function, gsplat_picture)
        elif inspect.isclass(has.get(_CLASS)):
            self._patch(module, _CLASS, inria_picture)
        for target in self._more.get(name, ()):
            if not self._patch(module, target, any_picture):
                _log.warning("%s has no function or class %s to patch", name, target)

    def _patch(self, module: ModuleType, name: str, read: "_Reader") -> bool:
        """Patch one function or class; return whether it is patched now."""
        found = vars(module).get(name)
        place, attribute = (found, "forward") if inspect.isclass(found) else (module, name)
        original = getattr(place, attribute, None)
        if not inspect.isfunction(original):
            return False
        if original in self._made.values():  # imported from where it was patched
            return True
        if original not in self._made:
            self._made[original] = self._wrapped(original, read)
            self.patched.append(f"{module.__name__}.{name}")
        setattr(place, attribute, self._made[original])
        return True

    def _wrapped(self, original: Callable[..., Any], read: "_Reader") -> Callable[..., Any]:
        signature = inspect.signature(original)

        @functools.wraps(original)
        def rasterize(*args: Any, **kwargs: Any) -> Any:
            if torch.is_grad_enabled():
                return original(*args, **kwargs)
            seen = self._thread.results
            output = original(*args, **kwargs)
            if self._thread.results != seen:  # it called another rasteriser, already counted
                return output
            self._thread.results += 1
            try:
                call = signature.bind(*args, **kwargs)
                call.apply_defaults()
                return self._restored(output, read, call.arguments)
            except _LeftAloneError as what:
                self.counts[str(what)] += 1
            except FAULTS as error:
                self.counts["unreadable"] += 1
                if not self._warned:
                    _log.warning("a rasterizer's result is shown unrestored: %s", error)
                self._warned = True
            return output

        return rasterize

    def _restored(self, output: Any, read: "_Reader", arguments: Mapping[str, Any]) -> Any:
        several = isinstance(output, tuple | list)
        image = output[0] if several else output
        if not isinstance(image, Tensor):
            raise _LeftAloneError("no tensor")
        picture = read(output, arguments)
        _check(picture, self._colors)
        rgb = self._restore(picture)
        if rgb is picture.rgb:
            self.counts["unrestored"] += 1
            return output
        # into a copy, so that layout, shape and a fourth channel stay as they were
        new = image.clone()
        read(replace_in(output, 0, new), arguments).rgb.copy_(rgb)
        self.counts["restored"] += 1
        return replace_in(output, 0, new)


_Reader = Callable[[Any, Mapping[str, Any]], Picture]


class _Thread(threading.local):
    """Number of results that a thread has seen; it only grows, so an interrupt does no harm."""

    results = 0


def inria_picture(output: Any, arguments: Mapping[str, Any]) -> Picture:
    """Read `GaussianRasterizer.forward`: (image, ...) or image, (3, h, w)."""
    image = _single(_first(output))
    if image.shape[0] != 3:
        raise _LeftAloneError("features")
    return Picture(image.permute(1, 2, 0), colors=_plain_colors(arguments))


def gsplat_picture(output: Any, arguments: Mapping[str, Any]) -> Picture:
    """Read `rasterization`: (colors, alphas, ...), (..., C, h, w, D) and (..., C, h, w, 1).

    Without backgrounds the colours are premultiplied over black, and the picture has alpha. With
    backgrounds the picture has no alpha.
    """
    mode = arguments.get("render_mode", "RGB")
    if not mode.startswith("RGB"):
        raise _LeftAloneError("depth")
    image = _single(_first(output))
    if image.shape[-1] != (4 if "+" in mode else 3):
        raise _LeftAloneError("features")
    blended = arguments.get("backgrounds") is not None
    return Picture(
        image[..., :3],
        alpha=None if blended else _single(output[1])[..., 0],
        depth=image[..., 3] if mode == "RGB+ED" else None,
        colors=arguments.get("colors") if arguments.get("sh_degree") is None else None,
    )


def any_picture(output: Any, arguments: Mapping[str, Any]) -> Picture:
    """Read an image, or first an image, (3, h, w) or (h, w, 3)."""
    image = _single(_first(output))
    if image.shape[-1] != 3 and image.shape[0] != 3:
        raise _LeftAloneError("features")
    rgb = image if image.shape[-1] == 3 else image.permute(1, 2, 0)
    return Picture(rgb, colors=_plain_colors(arguments))


def _plain_colors(arguments: Mapping[str, Any]) -> Tensor | None:
    """Return the plain colours that Inria's signature allows instead of spherical harmonics."""
    harmonics = arguments.get("shs")
    if harmonics is not None and harmonics.numel():
        return None
    colors: Tensor | None = arguments.get("colors_precomp")
    return colors


def _first(output: Any) -> Tensor:
    image: Tensor = output[0] if isinstance(output, tuple | list) else output
    return image


def _single(image: Tensor) -> Tensor:
    """Return an image as (a, b, c), without leading axes of length 1."""
    if image.ndim < 3:
        raise _LeftAloneError("no image")
    if any(side != 1 for side in image.shape[:-3]):
        raise _LeftAloneError("several cameras at once")
    return image.reshape(image.shape[-3:])


def _check(picture: Picture, colors: Colors) -> None:
    """Raise if a sign says that the result is not a picture."""
    if colors == "sh" and picture.colors is not None:
        raise _LeftAloneError("not from spherical harmonics")
    given = picture.colors
    if given is not None and given.ndim >= 2 and bool((given == given[..., :1, :]).all()):
        raise _LeftAloneError("of one colour")
    rgb = picture.rgb
    if rgb.is_floating_point() and bool((rgb < _SIGNED).any()):
        raise _LeftAloneError("signed")
    if bool((rgb == rgb[..., :1]).all()):
        raise _LeftAloneError("grey")
