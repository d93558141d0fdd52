"""`wrap`: results of render functions in all their forms, and parts that must not change."""

from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch

from splatmend.core import Frame
from splatmend.plugin.client import Client, ClientOptions, wrap
from splatmend.plugin.server import Engine, Server, ServerOptions

SIZE = (5, 7)
OPTIONS = ClientOptions(deadline_ms=10000)


def negative(frames: Any) -> list[Frame]:
    top = 1 if frames[0].color.dtype == np.float32 else 255
    return [frame.with_color(top - frame.color) for frame in frames]


@pytest.fixture(scope="module")
def came() -> list[Frame]:
    """Collect the server's frames; the last is the newest."""
    return []


@pytest.fixture(scope="module")
def client(came: list[Frame]) -> Iterator[Client]:
    def restore(frames: Any) -> list[Frame]:
        came.extend(frames)
        return negative(frames)

    engine = Engine("negative", restore)
    with ExitStack() as stack:
        server = stack.enter_context(Server([engine], ServerOptions(urls=("tcp://127.0.0.1:0",))))
        made = stack.enter_context(Client(server.urls[0], OPTIONS))
        assert made.wait(10)
        yield made


def pixels(channels: int = 3, *, dtype: Any = np.uint8) -> Any:
    values = np.random.default_rng(1).integers(0, 256, (*SIZE, channels), np.uint8)
    return values if dtype == np.uint8 else (values / 255).astype(dtype)


KINDS: dict[str, Callable[[Any], Any]] = {
    "numpy": lambda a: a,
    "torch": lambda a: torch.from_numpy(np.ascontiguousarray(a)),
}


def array_of(image: Any) -> Any:
    return image.numpy() if isinstance(image, torch.Tensor) else image


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("chw", [False, True], ids=["hwc", "chw"])
@pytest.mark.parametrize("lead", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_images_come_back_as_they_came(kind, lead, chw, dtype, client) -> None:
    array = pixels(dtype=dtype)
    array = array.transpose(2, 0, 1) if chw else array
    image = KINDS[kind](array.reshape((1,) * lead + array.shape))
    before = array_of(image).copy()
    result = wrap(lambda: image, client)()
    assert result is not image
    assert type(result) is type(image)
    assert (result.shape, result.dtype) == (image.shape, image.dtype)
    expected = 255 - before if dtype == np.uint8 else 1 - before
    assert np.allclose(array_of(result), expected, atol=1e-6)
    assert np.array_equal(array_of(image), before)  # not written into
    result[...] = 0  # but the caller may


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_tensors(dtype, client) -> None:
    image = torch.from_numpy(pixels(dtype=np.float32)).to(dtype)
    result = wrap(lambda: image, client)()
    assert result.dtype == dtype
    assert torch.allclose(result.float(), 1 - image.float(), atol=1e-2)


def test_floats_may_travel_whole(client, came) -> None:
    image = np.full((*SIZE, 3), 1 / 3, np.float32)
    result = wrap(lambda: image, client, dtype="float32")()
    assert came[-1].color.dtype == np.float32
    assert np.allclose(result, 2 / 3, atol=1e-7)


def test_unclamped_floats(client) -> None:
    """Rasterisers overshoot; a display does not."""
    image = torch.full((*SIZE, 3), 1.7)
    image[0] = -0.5
    result = wrap(lambda: image, client)()
    assert result[0].unique().tolist() == [1.0]
    assert result[1:].unique().tolist() == [0.0]


def test_arguments_go_through(client) -> None:
    def render(camera: int, *, scale: int = 1) -> Any:
        return np.full((*SIZE, 3), camera * scale, np.uint8)

    assert (wrap(render, client)(3, scale=5) == 240).all()


def test_gsplat(client, came) -> None:
    """Wraps rasterization(...) -> colors (1, h, w, 3), alphas (1, h, w, 1), meta."""
    colors = torch.from_numpy(pixels(dtype=np.float32))[None]
    alphas = torch.rand(1, *SIZE, 1)
    meta = {"radii": object()}
    result = wrap(lambda: (colors, alphas, meta), client, alpha=1)()
    assert type(result) is tuple
    assert torch.allclose(result[0], 1 - colors, atol=1e-6)
    assert result[1] is alphas
    assert result[2] is meta
    assert came[-1].alpha_kind == "premultiplied"
    assert np.allclose(came[-1].alpha, alphas[0, ..., 0] * 255, atol=0.51)


def test_gsplat_with_depth_as_the_fourth_channel(client, came) -> None:
    image = torch.cat([torch.from_numpy(pixels(dtype=np.float32)), torch.rand(*SIZE, 1) * 9], -1)
    result = wrap(lambda: image, client, fourth="depth")()
    assert torch.allclose(result[..., :3], 1 - image[..., :3], atol=1e-6)
    assert torch.equal(result[..., 3], image[..., 3])
    assert came[-1].alpha is None


def test_a_fourth_channel_is_alpha(client, came) -> None:
    image = pixels(4)
    result = wrap(lambda: image, client, alpha_kind="straight")()
    assert (result[..., :3] == 255 - image[..., :3]).all()
    assert (result[..., 3] == image[..., 3]).all()
    assert (came[-1].alpha == image[..., 3]).all()
    assert came[-1].alpha_kind == "straight"


def test_inria(client) -> None:
    """Wraps render(...) -> {"render": (3, h, w), ...}; the rasterizer itself -> image, radii."""
    image, radii = torch.rand(3, *SIZE), torch.arange(9)
    result = wrap(lambda: {"render": image, "radii": radii}, client, image="render")()
    assert torch.allclose(result["render"], 1 - image, atol=0.003)
    assert result["radii"] is radii
    result = wrap(lambda: (image, radii), client)()
    assert torch.allclose(result[0], 1 - image, atol=0.003)
    assert result[1] is radii


def test_nerfview(client) -> None:
    """Wraps render_fn(camera, tab) -> image, depth."""
    image, depth = pixels(), np.random.default_rng(0).random((*SIZE, 1))
    result = wrap(lambda: (image, depth), client, depth=1)()
    assert (result[0] == 255 - image).all()
    assert result[1] is depth


def test_lists_and_named_tuples_stay_what_they_are(client) -> None:
    kind = namedtuple("Output", "extra image")
    image = pixels()
    result = wrap(lambda: kind("x", image), client, image=1)()
    assert type(result) is kind
    assert (result.image == 255 - image).all()
    listed = wrap(lambda: [image, None], client)()
    assert type(listed) is list


def test_a_size_that_changes_with_every_frame(client) -> None:
    """Changes the size, as nerfview does while the camera moves."""
    sizes = iter([(4, 4), (8, 6), (3, 3), (64, 2)])
    render = wrap(lambda: np.zeros((*next(sizes), 3), np.uint8), client)
    for size in [(4, 4), (8, 6), (3, 3), (64, 2)]:
        assert render().shape == (*size, 3)


def test_layout_can_be_said(client, came) -> None:
    image = np.zeros((3, 5, 3), np.uint8)
    assert wrap(lambda: image, client)().shape == (3, 5, 3)
    assert came[-1].size == (3, 5)
    wrap(lambda: image, client, layout="chw")()
    assert came[-1].size == (5, 3)


@pytest.mark.parametrize(
    "output",
    [
        None,
        "text",
        (),
        {},
        pixels()[..., 0],
        pixels(1),
        pixels(2),
        np.zeros((2, *SIZE, 3), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
        np.full((*SIZE, 3), 200),  # whole numbers of an unknown range
        torch.ones(*SIZE, 3, dtype=torch.bool),
        torch.zeros(*SIZE, 3, requires_grad=True),
    ],
    ids=lambda o: str(getattr(o, "shape", o)),
)
def test_what_is_no_image_is_returned_as_it_is(output, client) -> None:
    assert wrap(lambda: output, client)() is output


def test_alpha_of_another_size_is_no_reason_to_fail(client, caplog) -> None:
    output = (pixels(), np.zeros((2, 2)))
    render = wrap(lambda: output, client, alpha=1)
    assert render() is output
    assert render() is output
    assert [r.getMessage() for r in caplog.records].count(caplog.records[0].getMessage()) == 1
    assert "have the image's size (5, 7), got (2, 2)" in caplog.text


def test_errors_of_the_render_function_are_its_own(client) -> None:
    class InterruptRenderError(Exception):
        pass

    def render() -> None:
        raise InterruptRenderError

    with pytest.raises(InterruptRenderError):
        wrap(render, client)()


def test_without_a_server_nothing_changes() -> None:
    image = pixels()
    render = wrap(lambda: image, url="tcp://127.0.0.1:9")
    assert render() is image
    render.close()
    assert render() is image


def test_cut_is_said_once(client, monkeypatch) -> None:
    said: list[bool] = []
    real = client.restore
    monkeypatch.setattr(client, "restore", lambda frame, *, cut: said.append(cut) or real(frame))
    render = wrap(pixels, client)
    render()
    render.cut()
    render()
    render()
    assert said == [False, True, False]


def test_a_shared_client_stays_open(client) -> None:
    wrap(pixels, client).close()
    assert client.restore(Frame(color=pixels())).restored
