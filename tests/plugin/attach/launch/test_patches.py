"""Rasterisers restored where they are imported, however they are called."""

import importlib
import itertools
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from splatmend.core.errors import InputError
from splatmend.plugin.attach.launch import ThreadStreams
from splatmend.plugin.attach.patches import Patches, Picture
from splatmend.plugin.client import ClientOptions

from rasterizers import INRIA, SIZE, gsplat, inria, negative

# Patched functions


@pytest.mark.parametrize("name", ["diff_gaussian_rasterization", "diff_surfel_rasterization"])
def test_inria_and_its_forks(name, patched) -> None:
    patches = patched()
    module = importlib.import_module(name)
    raw = inria(module)  # gradients are on
    with torch.no_grad():
        restored = inria(module)
    assert torch.equal(restored[0], 1 - raw[0])
    assert restored[0].is_contiguous()
    assert len(restored) == len(raw)
    assert restored[2:] == raw[2:]
    assert patches.patched == [f"{name}.GaussianRasterizer"]
    assert patches.counts == {"restored": 1}


def test_a_fork_that_returns_the_image_alone(patched, modules) -> None:
    path = modules / "diff_gauss.py"
    path.write_text(INRIA.replace("return image, torch.arange(len(means3D))", "return image[None]"))
    patched()
    module = importlib.import_module("diff_gauss")
    raw = inria(module)
    with torch.inference_mode():
        assert torch.equal(inria(module), 1 - raw)
    assert raw.shape == (1, 3, *SIZE)


def test_gsplat_however_it_is_imported(patched) -> None:
    patches = patched()
    from gsplat import rasterization  # type: ignore[import-not-found]
    from gsplat.rendering import rasterization as same  # type: ignore[import-not-found]

    assert rasterization is same
    assert sys.modules["gsplat"].rasterization is same
    colors, alphas, meta = gsplat(rasterization)
    with torch.no_grad():
        restored = gsplat(rasterization)
    assert torch.equal(restored[0], 1 - colors)
    assert torch.equal(restored[1], alphas)
    assert restored[2] == meta
    assert patches.patched == [
        "gsplat.rendering.rasterization", "gsplat.rendering.rasterization_2dgs"
    ]  # fmt: skip


def test_one_rasterizer_that_calls_another_is_restored_once(patched) -> None:
    patches = patched()
    module = importlib.import_module("gsplat")
    raw = gsplat(module.rasterization_2dgs)
    with torch.no_grad():
        result = gsplat(module.rasterization_2dgs)
    assert torch.equal(result[0], 1 - raw[0])
    assert result[2:] == raw[2:]
    assert patches.counts == {"restored": 1}


@pytest.mark.parametrize("chw", [True, False])
def test_further_rasterizers_by_name(chw, patched, modules, caplog) -> None:
    image = "torch.rand(3, 5, 7)" if chw else "torch.rand(5, 7, 3)"
    text = f"import torch\ndef render(scale):\n    torch.manual_seed(0)\n    return [{image}, 1]\n"
    (modules / "mine.py").write_text(text)
    patches = patched(more=["mine:render", "mine:absent"])
    module = importlib.import_module("mine")
    raw = module.render(1)
    with torch.no_grad():
        assert torch.equal(module.render(1)[0], 1 - raw[0])
    assert patches.patched == ["mine.render"]
    assert "mine has no function or class absent" in caplog.text
    with pytest.raises(InputError, match=r"'mine' is not a rasterizer: use package\.module:Name"):
        Patches(negative, more=["mine"])


def test_what_was_imported_before_is_patched_too(patched) -> None:
    module = importlib.import_module("gsplat")
    early = module.rendering.rasterization
    patched()
    assert module.rendering.rasterization is not early
    assert module.rasterization is module.rendering.rasterization


def test_the_import_system_is_left_as_it_was(patched, modules) -> None:
    plain = importlib.import_module("diff_surfel_rasterization")
    patched()
    module = importlib.import_module("diff_gaussian_rasterization")
    for name in ("__loader__", "__spec__"):
        assert type(getattr(module, name)) is type(getattr(plain, name))
    assert module.__spec__.loader is module.__loader__
    assert module.__file__ == str(modules / "diff_gaussian_rasterization.py")
    assert module.__loader__.get_source(module.__name__) == INRIA
    again = importlib.reload(module)
    assert again.GaussianRasterizer.forward.__wrapped__.__qualname__ == "GaussianRasterizer.forward"
    assert not hasattr(again.GaussianRasterizer.forward.__wrapped__, "__wrapped__")
    with pytest.raises(ModuleNotFoundError, match="diff_gauss_that_is_not_there"):
        importlib.import_module("diff_gauss_that_is_not_there")


def test_gradients_leave_all_as_it_is(patched) -> None:
    patches = patched()
    module = importlib.import_module("diff_gaussian_rasterization")
    shs = torch.ones(4, 16, 3, requires_grad=True)
    image, _ = inria(module, shs=shs)
    image.sum().backward()
    assert shs.grad is not None
    assert not patches.counts


# Results that count as pictures


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"render_mode": "D"}, "depth"),
        ({"render_mode": "ED"}, "depth"),
        ({"channels": 32}, "features"),
        ({"channels": 1}, "features"),
        ({"cameras": 2}, "several cameras at once"),
    ],
)
def test_gsplat_results_that_are_no_picture(options, why, patched) -> None:
    patches = patched()
    module = importlib.import_module("gsplat")
    raw = gsplat(module.rasterization, **options)
    with torch.no_grad():
        assert torch.equal(gsplat(module.rasterization, **options)[0], raw[0])
    assert patches.counts == {why: 1}


@pytest.mark.parametrize("mode", ["RGB+D", "RGB+ED"])
def test_depth_beside_the_colours_stays(mode, patched) -> None:
    seen: list[Picture] = []
    patched(lambda picture: seen.append(picture) or 1 - picture.rgb)
    module = importlib.import_module("gsplat")
    raw = gsplat(module.rasterization, render_mode=mode)[0]
    with torch.no_grad():
        image = gsplat(module.rasterization, render_mode=mode)[0]
    assert torch.equal(image[..., :3], 1 - raw[..., :3])
    assert torch.equal(image[..., 3], raw[..., 3])
    assert (seen[0].depth is not None) == (mode == "RGB+ED")


def test_alpha_goes_along_where_there_is_no_background(patched) -> None:
    seen: list[Picture] = []
    patched(lambda picture: seen.append(picture) or picture.rgb)
    module = importlib.import_module("gsplat")
    with torch.no_grad():
        gsplat(module.rasterization)
        gsplat(module.rasterization, backgrounds=torch.ones(1, 3))
    assert seen[0].alpha is not None
    assert seen[0].alpha.shape == SIZE
    assert seen[1].alpha is None


@pytest.mark.parametrize(
    ("colors", "why"),
    [
        (torch.ones(4, 3), "of one colour"),
        (torch.tensor([[1.0, 0, 0]]).expand(4, 3), "of one colour"),
        (torch.rand(4, 1).expand(4, 3), "grey"),
        (torch.eye(4, 3) * 2 - 1, "signed"),
        (torch.eye(4, 3), "restored"),
    ],
)
def test_masks_depths_and_normals_are_told_apart(colors, why, patched) -> None:
    patches = patched()
    module = importlib.import_module("diff_gaussian_rasterization")
    with torch.no_grad():
        inria(module, colors_precomp=colors)
    assert patches.counts == {why: 1}


def test_only_spherical_harmonics(patched) -> None:
    patches = patched(colors="sh")
    inria_module = importlib.import_module("diff_gaussian_rasterization")
    gsplat_module = importlib.import_module("gsplat")
    with torch.no_grad():
        inria(inria_module)
        inria(inria_module, colors_precomp=torch.eye(4, 3))
        gsplat(gsplat_module.rasterization)
        gsplat(gsplat_module.rasterization, sh_degree=3)
    assert patches.counts == {"restored": 2, "not from spherical harmonics": 2}


def test_what_is_not_restored_is_the_very_same(patched, modules) -> None:
    kind = "import torch\nOUTPUT = torch.rand(3, 5, 7), 1\ndef render():\n    return OUTPUT\n"
    (modules / "mine.py").write_text(kind)
    patches = patched(lambda picture: picture.rgb, more=["mine:render"])
    module = importlib.import_module("mine")
    with torch.no_grad():
        assert module.render() is module.OUTPUT
    assert patches.counts == {"unrestored": 1}


def test_faults_and_interrupts(patched, caplog) -> None:
    """A fault is ours and is logged once; a viewer's interrupt is the viewer's."""
    errors: list[Exception] = [ValueError("odd"), RuntimeError("worse"), InterruptRenderError()]

    def restore(_picture: Picture) -> torch.Tensor:
        raise errors.pop(0)

    patches = patched(restore)
    module = importlib.import_module("diff_gaussian_rasterization")
    with torch.no_grad():
        inria(module)
        inria(module)
        with pytest.raises(InterruptRenderError):
            inria(module)
    assert patches.counts == {"unreadable": 2}
    assert [r.getMessage() for r in caplog.records] == [
        "a rasterizer's result is shown unrestored: odd"
    ]


def test_a_stream_for_each_thread_that_renders(server) -> None:
    streams = ThreadStreams(server.urls[0], ClientOptions(deadline_ms=10000, stream="threads"))
    picture = Picture(torch.rand(*SIZE, 3))

    def count() -> int:
        return sum(one.stream == "threads" for one in server.figures().streams)

    def render() -> None:
        for size in (SIZE, (4, 4), SIZE):
            rgb = torch.rand(*size, 3)
            assert torch.allclose(streams.restore(Picture(rgb)), 1 - rgb, atol=0.003)
        counts.append(count())

    counts: list[int] = []
    for _ in range(2):
        thread = threading.Thread(target=render)
        thread.start()
        thread.join()
    assert len(counts) == 2
    assert torch.allclose(streams.restore(picture), 1 - picture.rgb, atol=0.003)
    assert streams.close()["restored"] == 7


def test_pictures_that_are_not_clamped(server) -> None:
    streams = ThreadStreams(server.urls[0], ClientOptions(deadline_ms=10000))
    assert streams.restore(Picture(torch.full((*SIZE, 3), 1.5))).unique().tolist() == [0]
    streams.close()


class InterruptRenderError(Exception):
    pass


def interrupt_after(lines: int) -> Any:
    """A trace function that raises at a line, as nerfview's does."""
    left = iter(range(lines))

    def trace(_frame: Any, event: str, _argument: Any) -> Any:
        if event == "line" and next(left, None) is None:
            sys.settrace(None)
            raise InterruptRenderError
        return trace

    return trace


@pytest.mark.slow
@pytest.mark.usefixtures("no_collections")
def test_interrupts_at_any_line_do_no_harm(server, patched) -> None:
    module = importlib.import_module("diff_gaussian_rasterization")
    streams = ThreadStreams(server.urls[0], ClientOptions(deadline_ms=10000))
    patched(streams.restore)
    raw = inria(module)[0]

    @torch.no_grad()
    def render_and_interrupt() -> int:
        inria(module)  # the client is made
        for lines in itertools.count():
            try:
                sys.settrace(interrupt_after(lines))
                inria(module, size=(5 + lines % 3, 7))
                break
            except InterruptRenderError:
                assert torch.allclose(inria(module)[0], 1 - raw, atol=0.003)
            finally:
                sys.settrace(None)
        return lines

    # a thread of its own: CPython loses count of handled exceptions when one is thrown into
    # an except clause
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(render_and_interrupt).result() > 250
    streams.close()
