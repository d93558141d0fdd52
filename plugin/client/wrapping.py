"""Put a render function behind a frame server: gsplat, nerfview, your own viewer.

render = splatmend.plugin.client.wrap(render)                       # image, or (image, ...)
render = splatmend.plugin.client.wrap(render, alpha=1)              # gsplat: (colors, alphas, meta)
render = splatmend.plugin.client.wrap(render, image="render")       # Inria: {"render": ..., ...}
render = splatmend.plugin.client.wrap(render, references=["photo.jpg"])   # pictures of the person
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Generic, Literal, ParamSpec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splatmend.core.errors import InputError
from splatmend.core.frame import AlphaKind, Frame
from splatmend.core.pixels import from_tensor, to_tensor
from splatmend.plugin.client.client import Client, ClientOptions
from splatmend.plugin.client.references import GivenReferences
from splatmend.plugin.protocol.zmq_sockets import DEFAULT_URL

__all__ = ["FAULTS", "Wrapped", "replace_in", "wrap"]

_log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_Array = NDArray[Any] | Tensor
Place = int | str
"""Index or key in a returned tuple, list or mapping."""
FAULTS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""Errors that are logged and not raised. Not Exception: viewers interrupt a rendering by
exceptions of their own."""

_DTYPES = (
    *(torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *map(np.dtype, (np.uint8, np.float16, np.float32, np.float64)),
)


def wrap(
    render: Callable[_P, Any],
    client: Client | None = None,
    *,
    url: str = DEFAULT_URL,
    options: ClientOptions | None = None,
    image: Place = 0,
    alpha: Place | None = None,
    alpha_kind: AlphaKind = "premultiplied",
    depth: Place | None = None,
    fourth: Literal["alpha", "depth"] = "alpha",
    layout: Literal["auto", "hwc", "chw"] = "auto",
    dtype: Literal["uint8", "float32"] = "uint8",
    references: GivenReferences | None = None,
) -> "Wrapped[_P]":
    """Restore the image that a render function returns; all else is returned as it is.

    The image may be a numpy array or a tensor on any device, uint8 or floats in [0, 1]. Its shape
    is (h, w, c) or (c, h, w), with any leading axes of length 1. The restored image has the same
    type, shape and device, in a new array. If nothing was restored, the very object that `render`
    returned is returned. An error of the server or of this wrapper is logged once, not raised.

    Args:
        render: any function; an image that needs a gradient is left alone.
        client: a client to share; None makes one, which belongs to the result.
        url: of the server, for a new client.
        options: of a new client.
        image: place of the image, if `render` returns several things.
        alpha: place of its alpha, in the image's layout with one channel or none.
        alpha_kind: "premultiplied", as rasterisers do over black, or "straight".
        depth: place of its depth, which helps the server along the stream.
        fourth: meaning of a fourth channel of the image; gsplat's "RGB+ED" has depth.
        layout: of the image; "auto" takes a last axis of 3 or 4 for the channels.
        dtype: of the image on the wire; float32 takes four times the bytes of uint8.
        references: pictures of the person, for a new client: the name of one of the server's sets,
            or paths or `References` to send.

    Raises:
        InputError: an address or references cannot be used, or references for a shared client.
    """
    return Wrapped(
        render,
        _client(client, url, options, references),
        owns_client=client is None,
        reader=_Reader(image, alpha, alpha_kind, depth, fourth, layout, np.dtype(dtype)),
    )


def _client(
    shared: Client | None,
    url: str,
    options: ClientOptions | None,
    references: GivenReferences | None,
) -> Client:
    if references is None:
        return shared or Client(url, options)
    if shared is not None:
        raise InputError(
            "a client that is shared has its references in its options: give them there"
        )
    return Client(url, replace(options or ClientOptions(), references=references))


class Wrapped(Generic[_P]):
    """A render function whose images are restored; call it like the original."""

    def __init__(
        self,
        render: Callable[_P, Any],
        client: Client,
        *,
        owns_client: bool,
        reader: "_Reader",
    ) -> None:
        self.client = client
        self._render = render
        self._owns_client = owns_client
        self._reader = reader
        self._cut = False
        self._warned = False

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> Any:
        """Call the render function; return its result, with the image restored if possible."""
        output = self._render(*args, **kwargs)
        if not self.client.wants_frames:
            self.client.skip()
            return output
        try:
            return self._restored(output)
        except FAULTS as error:
            if not self._warned:
                _log.warning("images are shown unrestored: %s", error)
            self._warned = True
            return output

    def cut(self) -> None:
        """Declare that the next image starts a new scene: a new avatar, a jump."""
        self._cut = True

    def close(self) -> None:
        """Close the client if it was made here."""
        if self._owns_client:
            self.client.close()

    def _restored(self, output: Any) -> Any:
        picture, frame = self._reader.read(output)
        if frame is None:
            return output
        shown = self.client.restore(frame, cut=self._cut)
        self._cut = False
        if not shown.restored:
            return output
        return self._reader.put_back(output, picture.with_color(shown.frame.color))


class _Picture:
    """An image and its layout."""

    def __init__(self, image: _Array, layout: str) -> None:
        shape = tuple(image.shape)
        if image.dtype not in _DTYPES:
            raise InputError(f"an image is uint8 or floating, got {image.dtype}")
        if len(shape) < 3 or any(side != 1 for side in shape[:-3]):
            raise InputError(f"one image of three axes is restored at a time, got {shape}")
        last, first = shape[-1] in (3, 4), shape[-3] in (3, 4)
        self.chw = layout == "chw" or (layout == "auto" and first and not last)
        if not (first if self.chw else last):
            raise InputError(f"an image has 3 or 4 channels, got {shape}, layout {layout}")
        self.image = image
        self.channels = shape[-3] if self.chw else shape[-1]

    def color(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return the colour (h, w, 3)."""
        return _as(self._whole()[..., :3], dtype)

    def fourth(self) -> _Array:
        """Return the fourth channel (h, w)."""
        plane: _Array = self._whole()[..., 3]
        return plane

    def with_color(self, color: NDArray[Any]) -> _Array:
        """Return a copy of the image with another colour."""
        new = self.image.clone() if isinstance(self.image, Tensor) else self.image.copy()
        whole = _hwc(new, chw=self.chw)
        whole[..., :3] = _like(color, self.image)
        return new

    def _whole(self) -> Any:
        return _hwc(self.image, chw=self.chw)


class _Reader:
    """Finds image, alpha and depth in the result of a render function."""

    def __init__(
        self,
        image: Place,
        alpha: Place | None,
        alpha_kind: AlphaKind,
        depth: Place | None,
        fourth: str,
        layout: str,
        dtype: np.dtype[Any],
    ) -> None:
        self._image, self._alpha, self._depth = image, alpha, depth
        self._alpha_kind, self._fourth, self._layout = alpha_kind, fourth, layout
        self._dtype = dtype

    def read(self, output: Any) -> tuple[_Picture, Frame | None]:
        """Return the image and the frame to send; None for an image that needs a gradient."""
        several = isinstance(output, tuple | list | Mapping)
        image = output[self._image] if several else output
        if not isinstance(image, Tensor | np.ndarray):
            raise InputError(f"an image is an array or a tensor, got {type(image).__name__}")
        picture = _Picture(image, self._layout)
        if isinstance(image, Tensor) and image.requires_grad:
            return picture, None
        planes = {
            "alpha": output[self._alpha] if several and self._alpha is not None else None,
            "depth": output[self._depth] if several and self._depth is not None else None,
        }
        if picture.channels == 4 and planes[self._fourth] is None:
            planes[self._fourth] = picture.fourth()
        color = picture.color(self._dtype)
        alpha, depth = (
            None if plane is None else _plane(plane, color.shape[:2]) for plane in planes.values()
        )
        return picture, Frame(
            color=color,
            alpha=None if alpha is None else _as(alpha, color.dtype),
            alpha_kind=self._alpha_kind,
            depth=None if depth is None else _float(depth),
        )

    def put_back(self, output: Any, image: _Array) -> Any:
        """Return a result of the same type with another image."""
        return replace_in(output, self._image, image)


def replace_in(output: Any, place: Place, image: Any) -> Any:
    """Copy a tuple, a list or a mapping with another image; for anything else return the image."""
    if not isinstance(output, tuple | list | Mapping):
        return image
    if isinstance(output, Mapping):
        return {**output, place: image}
    items = list(output)
    items[int(place)] = image
    if isinstance(output, list):
        return items
    make: Callable[[list[Any]], Any] = getattr(type(output), "_make", type(output))
    return make(items)


def _hwc(image: Any, *, chw: bool) -> Any:
    """Return a view (h, w, c)."""
    image = image.reshape(image.shape[-3:]) if image.ndim > 3 else image
    if not chw:
        return image
    return image.permute(1, 2, 0) if isinstance(image, Tensor) else image.transpose(1, 2, 0)


def _plane(plane: _Array, size: tuple[int, ...]) -> Any:
    """Return (h, w) of a plane that may have a channel axis and leading axes of length 1."""
    shape = tuple(side for side in plane.shape if side != 1)
    if shape != tuple(side for side in size if side != 1):
        raise InputError(f"alpha and depth have the image's size {size}, got {tuple(plane.shape)}")
    return plane.reshape(size)


def _as(samples: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert normalised samples to an array on the CPU, uint8 or float32."""
    if isinstance(samples, Tensor):
        if samples.dtype == torch.uint8:
            samples = samples.cpu().numpy()
        else:
            whole = samples[..., None] if samples.ndim == 2 else samples
            array: NDArray[Any] = from_tensor(whole.detach().permute(2, 0, 1)[None], dtype)[0]
            return array
    if samples.dtype not in (np.uint8, np.float32):
        samples = samples.astype(np.float32)
    if samples.dtype == dtype:
        return np.ascontiguousarray(samples)
    return from_tensor(to_tensor([samples]), dtype)[0]


def _float(depth: Any) -> NDArray[np.float32]:
    if isinstance(depth, Tensor):
        depth = depth.detach().cpu().float().numpy()
    return np.ascontiguousarray(depth, np.float32)


def _like(color: NDArray[Any], image: _Array) -> Any:
    """Convert a colour (h, w, 3) to the image's own kind, type and device."""
    as_bytes = image.dtype in (torch.uint8, np.dtype(np.uint8))
    wanted = np.dtype(np.uint8) if as_bytes else np.dtype(np.float32)
    array = _as(color, wanted)
    if isinstance(image, Tensor):
        return torch.from_numpy(array.copy()).to(image)
    return array.astype(image.dtype)
