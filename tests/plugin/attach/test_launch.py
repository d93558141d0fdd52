"""`splatmend run`: scripts that know nothing of it, over rasterisers named like the real ones."""

import importlib
import itertools
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from splatmend.core import Frame
from splatmend.core.errors import InputError
from splatmend.plugin.attach.launch import ImportHook, ThreadStreams, main
from splatmend.plugin.attach.patches import Patches, Picture
from splatmend.plugin.client import ClientOptions
from splatmend.plugin.server import Server, ServerOptions
from splatmend.plugin.workers import Engine

SIZE = (5, 7)
INRIA = '''
from typing import NamedTuple
import torch
from torch import nn

class GaussianRasterizationSettings(NamedTuple):
    image_height: int
    image_width: int
    bg: torch.Tensor

class GaussianRasterizer(nn.Module):
    def __init__(self, raster_settings):
        super().__init__()
        self.raster_settings = raster_settings

    def forward(self, means3D, means2D, opacities, shs=None, colors_precomp=None, scales=None,
                rotations=None, cov3D_precomp=None):
        settings = self.raster_settings
        size = settings.image_height, settings.image_width
        if shs is None:  # of one Gaussian after the other
            index = torch.arange(size[0] * size[1]) % len(means3D)
            image = colors_precomp[index].T.reshape(3, *size)
        else:
            image = torch.linspace(0, 1, 3 * size[0] * size[1]).reshape(3, *size) * shs.mean()
        return image, torch.arange(len(means3D))
'''  # fmt: skip
GSPLAT_RENDERING = '''
import torch

def rasterization(means, quats, scales, opacities, colors, viewmats, Ks, width, height,
                  near_plane=0.01, far_plane=1e10, sh_degree=None, backgrounds=None,
                  render_mode="RGB"):
    count = {"RGB": colors.shape[-1], "D": 1, "ED": 1}.get(render_mode, colors.shape[-1] + 1)
    cameras = viewmats.shape[-3]
    image = torch.linspace(0, 1, cameras * height * width * count)
    image = image.reshape(cameras, height, width, count) * means.mean()
    return image, torch.full((cameras, height, width, 1), 0.5), {"width": width}

def rasterization_2dgs(means, quats, scales, opacities, colors, viewmats, Ks, width, height,
                       sh_degree=None, backgrounds=None, render_mode="RGB"):
    image, alphas, meta = rasterization(means, quats, scales, opacities, colors, viewmats, Ks,
                                        width, height, render_mode=render_mode)
    return image, alphas, "normals", "surface", "distort", "median", meta
'''  # fmt: skip


def negative(picture: Picture) -> torch.Tensor:
    return 1 - picture.rgb


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with stand-ins, on sys.path; what is imported from it is forgotten again."""
    (tmp_path / "diff_gaussian_rasterization.py").write_text(INRIA)
    fork = tmp_path / "diff_surfel_rasterization"
    fork.mkdir()
    (fork / "__init__.py").write_text(INRIA.replace("torch.arange(len(means3D))", "'radii', 2, 3"))
    gsplat = tmp_path / "gsplat"
    gsplat.mkdir()
    (gsplat / "rendering.py").write_text(GSPLAT_RENDERING)
    (gsplat / "__init__.py").write_text("from .rendering import rasterization, rasterization_2dgs")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def patched(modules: Path) -> Iterator[Callable[..., Patches]]:
    """Installs the hook with the given options; removed at the end."""
    assert modules.is_dir()
    hooks: list[ImportHook] = []

    def install(restore: Any = negative, **options: Any) -> Patches:
        patches = Patches(restore, **options)
        hooks.append(ImportHook(patches.wants, patches.apply))
        hooks[-1].install()
        return patches

    yield install
    for hook in hooks:
        hook.remove()


def inria(module: Any, *, size: tuple[int, int] = SIZE, **colors: Any) -> Any:
    settings = module.GaussianRasterizationSettings(*size, torch.zeros(3))
    if not colors:
        colors = {"shs": torch.ones(4, 16, 3)}
    means = torch.zeros(4, 3)
    return module.GaussianRasterizer(settings)(
        means3D=means, means2D=means, opacities=torch.ones(4, 1), **colors
    )


def gsplat(function: Any, *, cameras: int = 1, channels: int = 3, **options: Any) -> Any:
    means, colors = torch.ones(4, 3), torch.rand(4, channels)
    view = torch.eye(4).expand(cameras, 4, 4)
    return function(means, means, means, means[:, 0], colors, view, view, 7, 5, **options)


# What is patched


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
    with pytest.raises(InputError, match=r"'mine' names no rasterizer: use package\.module:Name"):
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


# What is taken for a picture


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


# With a server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    def invert(frames: Any) -> list[Frame]:
        return [frame.with_color(255 - frame.color) for frame in frames]

    engine = Engine("negative", invert)
    with Server([engine], ServerOptions(urls=("tcp://127.0.0.1:0",))) as made:
        yield made


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


# Scripts


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """What a script changes is put back; returns what would run at the exit."""
    at_exit: list[Callable[[], None]] = []

    def register(function: Callable[..., None], *arguments: Any) -> None:
        at_exit.append(lambda: function(*arguments))

    monkeypatch.setattr("atexit.register", register)
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    monkeypatch.setattr(sys, "path", ["replaced", *sys.path])
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    return at_exit


def script(folder: Path, text: str, name: str = "viewer.py") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def test_a_script_and_its_world(modules, server, tmp_path) -> None:
    """The one that has a process of its own."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "helper.py").write_text("def load():\n    import gsplat\n    return gsplat")
    script(home, """
        import os, pickle, sys
        import torch
        import helper

        class Point: pass

        if __name__ == "__main__":
            assert sys.modules["__main__"].Point is type(pickle.loads(pickle.dumps(Point())))
            assert sys.argv == ["home/viewer.py", "--url", "x", "--", "-m", "-h"], sys.argv
            assert __file__ == os.path.abspath("home/viewer.py") and __spec__ is None
            assert sys.path[0] == os.path.dirname(__file__)
            m, v = torch.ones(4, 3), torch.eye(4)[None]
            def render():
                image = helper.load().rasterization(m, m, m, m[:, 0], m * m, v, v, 7, 5,
                                                    sh_degree=3)[0]
                return image.mean().item()
            on = render()
            with torch.no_grad():
                off = render()
            assert abs(on + off - 1) < 0.01, (on, off)
            print("whole")
            sys.exit(7)
    """)  # fmt: skip
    command = [sys.executable, "-m", "splatmend.plugin.attach.launch"]
    command += ["--url", server.urls[0], "--deadline-ms", "20000"]
    done = subprocess.run(
        [*command, "home/viewer.py", "--url", "x", "--", "-m", "-h"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(modules)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.stdout, done.returncode) == ("whole\n", 7), done.stderr
    assert done.stderr == (
        "splatmend run: 1 of 1 pictures restored (gsplat.rendering.rasterization, "
        "gsplat.rendering.rasterization_2dgs)\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "def fail():\n    raise KeyError('mine')\nfail()\n",
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise OSError from error\n",
        "import a_module_that_is_not_there\n",
        "x = (\n",
    ],
)
def test_a_traceback_is_the_script_s_own(text, tmp_path, world, capsys) -> None:
    path = script(tmp_path, text)
    plain = subprocess.run([sys.executable, str(path)], capture_output=True, text=True)
    assert main([str(path)]) == plain.returncode == 1
    assert capsys.readouterr().err == plain.stderr
    world[0]()
    assert "nothing restored: no known rasterizer was imported" in capsys.readouterr().err


@pytest.mark.usefixtures("world")
def test_how_scripts_end(tmp_path, capsys) -> None:
    assert main([str(script(tmp_path, "raise KeyboardInterrupt"))]) == 130
    assert capsys.readouterr().err.endswith("\nKeyboardInterrupt\n")
    with pytest.raises(SystemExit, match="why"):
        main([str(script(tmp_path, "import sys; sys.exit('why')"))])
    assert main([str(script(tmp_path, "done = True"))]) == 0
    assert sys.modules["__main__"].done  # type: ignore[attr-defined]


@pytest.mark.usefixtures("world")
def test_a_module(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "package").mkdir()
    script(tmp_path / "package", """
        import sys
        from package.part import value
        print(__name__, sys.argv[1:], value, sys.path[0])
        import package.absent
    """, "app.py")  # fmt: skip
    (tmp_path / "package" / "part.py").write_text("value = 3")
    monkeypatch.chdir(tmp_path)
    assert main(["-m", "package.app", "--port", "8080"]) == 1
    said = capsys.readouterr()
    assert said.out == f"__main__ ['--port', '8080'] 3 {tmp_path}\n"
    assert "frozen" not in said.err
    assert said.err.endswith("ModuleNotFoundError: No module named 'package.absent'\n")
    del sys.modules["package"]


RENDERS = """
    import torch
    from diff_gaussian_rasterization import GaussianRasterizer, GaussianRasterizationSettings
    points = torch.zeros(4, 3)
    raster = GaussianRasterizer(GaussianRasterizationSettings(5, 7, points[0]))
    for training in (True, False):
        with torch.set_grad_enabled(training and not ONLY_VIEWING):
            raster(points, points, points, shs=points[:, None] + 1)
            raster(points, points, points, colors_precomp=points + 1)
"""


NO_SERVER = (
    "0 of 2 pictures restored (NAME); shown as they were: down 2; left alone: of one colour 2; "
    "no server was found: start one with `splatmend serve`"
)


@pytest.mark.parametrize(
    ("url", "only_viewing", "summary"),
    [
        (None, False, "1 of 1 pictures restored (NAME); left alone: of one colour 1"),
        ("tcp://127.0.0.1:9", True, NO_SERVER),
    ],
    ids=["server", "none"],
)
@pytest.mark.usefixtures("modules")
def test_the_last_line(url, only_viewing, summary, world, server, tmp_path, capsys) -> None:
    path = script(tmp_path, RENDERS.replace("ONLY_VIEWING", str(only_viewing)))
    deadline = "100" if url else "20000"
    assert main(["--url", url or server.urls[0], "--deadline-ms", deadline, str(path)]) == 0
    world[0]()
    name = "diff_gaussian_rasterization.GaussianRasterizer"
    assert capsys.readouterr().err == f"splatmend run: {summary.replace('NAME', name)}\n"


@pytest.mark.usefixtures("modules", "world")
def test_nothing_without_gradients(world, tmp_path, capsys) -> None:
    assert main([str(script(tmp_path, "import diff_gaussian_rasterization"))]) == 0
    world[0]()
    assert "GaussianRasterizer rendered nothing without gradients" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.py"], "there is no script nothing.py"),
        (["--url", "nowhere", "x.py"], "nowhere"),
        (["--deadline-ms", "0", "x.py"], "above 0"),
    ],
)
def test_what_cannot_be_run(arguments, message) -> None:
    with pytest.raises(InputError, match=message):
        main(arguments)


@pytest.mark.parametrize("arguments", [[], ["--colours", "sh", "x.py"], ["--mode", "ordered"]])
def test_wrong_options(arguments, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: splatmend run" in capsys.readouterr().err
