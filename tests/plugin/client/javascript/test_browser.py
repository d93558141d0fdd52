"""A real browser, a real public viewer, a real server: the whole way, onto the page.

It needs Debian's chromium, node and npm, and is skipped without them; with
FAIL_WITHOUT_PROGRAMS set it fails instead. It leaves build/browser/attached.png.
"""

import base64
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Empty
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from splatmend.core import Frame
from splatmend.plugin.client import Client, ClientOptions
from splatmend.plugin.server import Engine, GatewayOptions, Server, ServerOptions
from splatmend.training.gaussians.ply import Splats, write_ply

from chromium import BUILD, HERE, attach, installed, lines_of, stop, unavailable, wait_for

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[4] / "examples" / "10_light_avatar.html"
SHOWN = 12
SIDE = 512


@pytest.fixture(scope="module")
def packages() -> Path:
    """Folder with node_modules; kept between runs, as long as package.json stays the same."""
    installed("node")
    npm = installed("npm")
    wanted = (HERE / "package.json").read_text()
    manifest = BUILD / "package.json"
    if (BUILD / "installed").exists() and manifest.read_text() == wanted:
        return BUILD
    BUILD.mkdir(parents=True, exist_ok=True)
    manifest.write_text(wanted)
    options = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock",
               "--fetch-retries=1")  # fmt: skip
    try:
        done = subprocess.run(
            [npm, "install", *options], cwd=BUILD, capture_output=True, text=True, timeout=300
        )
    except subprocess.TimeoutExpired:
        unavailable("npm install took more than 5 minutes")
    if done.returncode:
        unavailable(f"npm cannot install the viewer: {done.stderr[-500:]}")
    (BUILD / "installed").touch()
    return BUILD


@pytest.fixture(scope="module")
def viewer(site: tuple[Path, str], packages: Path) -> tuple[Path, str]:
    """Add PlayCanvas and an avatar to the folder."""
    folder, _ = site
    (folder / "node_modules").symlink_to(packages / "node_modules")
    write_ply(folder / "avatar.ply", a_head(6000))
    return site


@pytest.fixture(scope="module")
def compact(site: tuple[Path, str]) -> Iterator[dict[str, str]]:
    """Addresses, by carrier, of `splatmend serve` running compact."""
    command = [
        sys.executable,
        "-m",
        "splatmend.plugin.server.command",
        "--device",
        "cpu",
        "--no-temporal",
    ]
    listening = ["--url", "tcp://127.0.0.1:0", "--ws", "127.0.0.1:0", "--origin", site[1]]
    process = subprocess.Popen(
        [*command, *listening],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    try:
        line = lines_of(process, process.stdout).get(timeout=60)
        assert line.startswith("serving compact on "), line
        addresses = line.removeprefix("serving compact on ").strip().split(", ")
        yield {address.split(":")[0]: address for address in addresses}
    except Empty:
        pytest.fail("the server did not start within a minute")
    finally:
        stop(process)


class Dimmer:
    """A restorer that halves the colours, and can be stopped."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()

    def __call__(self, frames: Sequence[Frame]) -> list[Frame]:
        assert self.go.wait(20)
        return [frame.with_color(frame.color // 2) for frame in frames]


@pytest.fixture
def dimmer(site: tuple[Path, str]) -> Iterator[tuple[Dimmer, Server]]:
    restore = Dimmer()
    gateway = GatewayOptions(ws="127.0.0.1:0", origins=(site[1],))
    options = ServerOptions(urls=("tcp://127.0.0.1:0",), gateway=gateway)
    with Server([Engine("dimmer", restore)], options) as server:
        yield restore, server
        restore.go.set()


def a_head(count: int) -> Splats:
    """Something like a head, 0.3 units high: skin, hair, eyes and a mouth."""
    random = torch.Generator().manual_seed(3)
    way = torch.nn.functional.normalize(torch.randn(count, 3, generator=random), dim=1)
    center = way * torch.tensor((0.11, 0.15, 0.125))
    x, y, z = way.unbind(1)
    color = torch.tensor((0.82, 0.62, 0.52)).repeat(count, 1)
    front = z > 0.3
    for where, value in (
        ((y > 0.55) | (z < -0.15), (0.25, 0.15, 0.08)),
        (front & ((x.abs() - 0.35).square() + (y - 0.2).square() < 0.02), (0.95, 0.95, 0.95)),
        (front & ((x.abs() - 0.35).square() + (y - 0.2).square() < 0.005), (0.1, 0.2, 0.35)),
        (front & ((x / 2).square() + (y + 0.45).square() < 0.008), (0.7, 0.2, 0.2)),
    ):
        color[where] = torch.tensor(value)
    color += 0.04 * torch.randn(count, 3, generator=random)
    return Splats(
        center=center,
        log_scale=math.log(0.005) + 0.3 * torch.randn(count, 3, generator=random),
        rotation=torch.randn(count, 4, generator=random),
        opacity=torch.full((count,), 3.0),
        harmonics=((color - 0.5) / 0.28209479)[:, None],
    )


COLLECT = """
new Promise((resolve, reject) => {
  const seen = [];
  const scratch = Object.assign(document.createElement("canvas"), { width: 512, height: 512 });
  const pen = scratch.getContext("2d", { willReadFrequently: true });
  const upright = (bytes) => {
    const rows = Array.from({ length: 512 }, (_, y) => bytes.subarray(2048 * y, 2048 * (y + 1)));
    return rows.reverse();
  };
  const base64 = (bytes) => btoa(Array.from(bytes, (b) => String.fromCharCode(b)).join(""));
  setTimeout(() => reject(new Error("too few came back: " + JSON.stringify(splatmend.counts)
    + splatmend.state)), 85000);
  splatmend.onshown = ({ id, ageMs, width, height, raw, restored }) => {
    pen.drawImage(splatmend.overlay, 0, 0);
    const seenBytes = pen.getImageData(0, 0, 512, 512).data;
    const onScreen = upright(restored).every((row, y) =>
      row.every((value, x) => value === seenBytes[2048 * y + x]));
    seen.push({ id, ageMs, width, height, onScreen });
    if (seen.length < COUNT) return;
    splatmend.onshown = null;
    resolve({ seen, raw: base64(raw), restored: base64(restored) });
  };
})
"""


def pixels(data: str) -> Any:
    """Return a picture (h, w, 4), uint8, top row first."""
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(SIDE, SIDE, 4)[::-1]


@pytest.mark.usefixtures("viewer")
def test_a_public_viewer_is_restored_on_its_page(browser, put, compact) -> None:
    script = attach(compact["ws"].removeprefix("ws://"), max_age_ms=30_000)
    browser.open(put("playcanvas.html", script))
    wait_for(browser, "window.loaded || window.failed")
    assert browser.evaluate("window.failed") is None
    came = browser.evaluate(COLLECT.replace("COUNT", str(SHOWN)))
    seen = came["seen"]
    ids = [each["id"] for each in seen]
    assert len(seen) == SHOWN
    assert ids == sorted(set(ids))
    assert all(0 < each["ageMs"] < 30_000 for each in seen)
    assert all((each["width"], each["height"]) == (SIDE, SIDE) for each in seen)
    assert all(each["onScreen"] for each in seen), "the overlay shows what came back"

    raw, restored = pixels(came["raw"]), pixels(came["restored"])
    assert raw[..., 3].min() == 255
    assert np.unique(raw[::8, ::8, :3].reshape(-1, 3), axis=0).shape[0] > 100, "a picture, no blank"
    with Client(compact["tcp"], ClientOptions(deadline_ms=20_000)) as client:
        assert client.wait()
        again = client.restore(Frame(color=np.ascontiguousarray(raw[..., :3]))).frame.color
    assert np.array_equal(again, restored[..., :3]), "what any other client gets for it"
    assert (again != raw[..., :3]).mean() > 0.05

    told = browser.evaluate(
        "({ shown: splatmend.shown, counts: splatmend.counts, state: splatmend.state,"
        " model: splatmend.model, visible: splatmend.visible, draws: window.draws,"
        " apart: ['left', 'top', 'width', 'height'].map((key) =>"
        "   splatmend.overlay.getBoundingClientRect()[key]"
        "   - splatmend.canvas.getBoundingClientRect()[key]) })"
    )
    assert (told["model"], told["state"], told["visible"]) == ("compact", "up", True)
    assert told["counts"]["restored"] >= told["shown"] >= SHOWN
    assert told["draws"] > told["counts"]["sent"] - 2
    assert told["apart"] == [3, 3, -6, -6], "inside the canvas's border of 3 pixels"

    picture = browser.screenshot()
    cv2.imwrite(str(BUILD / "attached.png"), picture)
    assert picture[20:532, 33:545].std() > 10


def test_the_example_of_a_light_avatar(browser, viewer, dimmer) -> None:
    """Mends the named one of two canvases of one size."""
    folder, origin = viewer
    address = dimmer[1].gateway.addresses["ws"]
    page = EXAMPLE.read_text().replace("127.0.0.1:7880", address)
    page = page.replace('data-canvas="#mended"', 'data-canvas="#mended" data-max-age-ms="8000"')
    (folder / EXAMPLE.name).write_text(page)
    (folder / "light.ply").write_bytes((folder / "avatar.ply").read_bytes())
    browser.open(f"{origin}/{EXAMPLE.name}")
    wait_for(browser, "splatmend.shown > 2 && splatmend.visible")
    assert browser.evaluate("[splatmend.canvas.id, splatmend.canvas.width]") == ["mended", SIDE]
    browser.evaluate("""new Promise((resolve) => {
      splatmend.onshown = ({ raw }) => raw.some((value) => value < 250) && resolve();
    })""")
    assert browser.console == []


KINDS = [("webgl2", "opaque", "plain"), ("webgl", "premul", "plain"),
         ("webgl2", "straight", "fence"), ("webgl2", "premul", "fence")]  # fmt: skip


@pytest.mark.parametrize(("kind", "alpha", "read"), KINDS)
def test_pixels_come_back_as_they_are(browser, put, dimmer, kind, alpha, read) -> None:
    gateway = dimmer[1].gateway.addresses["ws"]
    browser.open(put("canvas.html", attach(gateway, read=read)) + f"?kind={kind}&alpha={alpha}")
    wait_for(browser, "splatmend.state === 'up'")
    came = browser.evaluate(
        """new Promise((resolve) => {
          splatmend.onshown = ({ raw, restored }) => {
            const ours = splatmend.overlay.getContext("webgl2");
            const seen = new Uint8Array(restored.length);
            ours.readPixels(0, 0, 96, 64, ours.RGBA, ours.UNSIGNED_BYTE, seen);
            const pick = (bytes) => [[1, 1], [94, 1], [1, 62]].map(([x, y]) =>
              [...bytes.subarray(4 * (96 * y + x)).subarray(0, 4)]);
            resolve({ raw: pick(raw), restored: pick(restored),
              same: seen.every((value, index) => value === restored[index]),
              state: [gl.getError(), gl.getParameter(gl.PACK_ALIGNMENT),
                gl.getParameter(gl.FRAMEBUFFER_BINDING)],
              opacity: canvas.style.opacity });
          };
          drawOnce();
        })"""
    )
    fourth = [255, 255, 255] if alpha == "opaque" else [255, 153, 0]
    assert came["raw"] == [[204, 102, 51, fourth[0]], [51, 153, 102, fourth[1]],
                           [0, 0, 0, fourth[2]]]  # fmt: skip
    assert came["restored"][0] == [102, 51, 25, 255]
    assert [pixel[3] for pixel in came["restored"]] == fourth
    assert came["restored"][2] == came["raw"][2]
    assert came["same"]
    assert came["state"] == [0, 8, None]
    assert came["opacity"] == ("" if alpha == "opaque" else "0")
    assert browser.evaluate("(splatmend.detach(), window.splatmend === undefined)")
    left = "[canvas.style.opacity, document.querySelectorAll('canvas').length]"
    assert browser.evaluate(left) == ["", 1]
    assert browser.console == []


def test_the_overlay_lies_on_the_picture_for_as_long_as_it_stays(browser, put, dimmer) -> None:
    _, server = dimmer
    browser.open(put("canvas.html", attach(server.gateway.addresses["ws"], max_age_ms=400)))
    wait_for(browser, "splatmend.state === 'up'")
    # a picture stays for as long as the page draws no other
    browser.evaluate("drawOnce()")
    wait_for(browser, "splatmend.visible")
    browser.evaluate(
        "(() => { const now = performance.now.bind(performance); window.looks = 0;"
        " performance.now = () => { window.looks += 1; return now() + 900 } })()"
    )
    wait_for(browser, "window.looks > 3")  # it has noticed that it is 900 ms later
    assert browser.evaluate("[splatmend.visible, splatmend.shown]") == [True, 1]
    box = browser.evaluate(
        "['left', 'top', 'width', 'height'].map((key) =>"
        " splatmend.overlay.getBoundingClientRect()[key] - canvas.getBoundingClientRect()[key])"
    )
    assert box == pytest.approx([3, 3, -6, -6], abs=0.01), "scaled by half, without border, padding"
    middle = "document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2)"
    mouse = (
        f"(() => {{ const box = canvas.getBoundingClientRect(); return {middle} === canvas }})()"
    )
    assert browser.evaluate(mouse), "the mouse gets through"
    # a drawing elsewhere is not a picture
    browser.evaluate(
        "(gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer()), drawOnce())"
        ".then(() => gl.bindFramebuffer(gl.FRAMEBUFFER, null))"
    )
    assert browser.evaluate("splatmend.counts.sent") == 1
    assert browser.console == []


def test_the_overlay_follows_server_page_and_reader(browser, put, dimmer) -> None:
    restore, server = dimmer
    browser.open(put("canvas.html", attach(server.gateway.addresses["ws"], max_age_ms=400)))
    wait_for(browser, "splatmend.state === 'up'")
    # the page goes on and the server does not
    browser.evaluate("run(true)")
    wait_for(browser, "splatmend.shown > 5 && splatmend.visible")
    restore.go.clear()
    wait_for(browser, "!splatmend.visible")
    restore.go.set()
    wait_for(browser, "splatmend.visible")
    # another size
    browser.evaluate("void (canvas.width = 128)")
    wait_for(browser, "splatmend.visible && splatmend.overlay.width === 128")
    # the reader's wish
    key = "{ altKey: true, shiftKey: true, code: 'KeyS' }"
    browser.evaluate(f"void window.dispatchEvent(new KeyboardEvent('keydown', {key}))")
    assert browser.evaluate("[splatmend.state, splatmend.visible]") == ["off", False]
    browser.evaluate("splatmend.toggle()")
    wait_for(browser, "splatmend.visible")
    # another canvas, larger, takes over; a removed one is released
    browser.evaluate("""{
      const large = document.body.appendChild(document.createElement("canvas"));
      large.style.cssText = "width: 400px; height: 300px";
      const other = large.getContext("webgl");
      window.more = setInterval(() => other.clear(other.COLOR_BUFFER_BIT), 30);
    }""")
    wait_for(browser, "splatmend.visible && splatmend.canvas !== canvas")
    browser.evaluate("(clearInterval(more), splatmend.canvas.remove())")
    wait_for(browser, "splatmend.visible && splatmend.canvas === canvas")
    assert browser.evaluate("document.querySelectorAll('canvas').length") == 2
    assert browser.console == []
    server.stop()
    wait_for(browser, "!splatmend.visible && splatmend.state === 'down'")


def test_without_a_server_the_page_is_what_it_was(browser, put, dimmer) -> None:
    settings = "<script>window.splatmendOptions = { server: 'ws://127.0.0.1:9' };</script>"
    browser.open(put("canvas.html", settings + attach(dimmer[1].gateway.addresses["ws"])))
    browser.evaluate("run(true)")
    wait_for(browser, "window.splatmend && count > 10")
    told = browser.evaluate("[splatmend.shown, splatmend.state, splatmend.visible]")
    assert told == [0, "down", False]
    assert browser.console == []


def test_a_script_that_comes_late_and_one_that_comes_twice(browser, put, dimmer) -> None:
    gateway = dimmer[1].gateway.addresses["ws"]
    browser.open(put("canvas.html", "<script></script>"))
    browser.evaluate("run(true)")
    late = (
        "Object.assign(document.createElement('script'), {"
        f" src: 'http://{gateway}/attach.js',"
        "  onload: () => window.came = 1 + (window.came ?? 0) })"
    )
    browser.evaluate(f"void document.head.append({late})")
    wait_for(browser, "window.splatmend?.visible")
    browser.evaluate(f"void document.head.append({late})")
    wait_for(browser, "window.came === 2")
    assert len(dimmer[1].figures().streams) == 1
    assert browser.console == []


def test_canvases_that_cannot_be_attached_are_named(browser, put, dimmer) -> None:
    browser.open(put("canvas.html", attach(dimmer[1].gateway.addresses["ws"])))
    browser.evaluate("void document.createElement('canvas').getContext('webgpu')")
    browser.evaluate("void document.createElement('canvas').transferControlToOffscreen()")
    browser.evaluate("void document.createElement('canvas').getContext('webgl').clear(0)")
    assert [line[:22] for line in browser.console] == [
        "splatmend: a WebGPU ca", "splatmend: a canvas th", "splatmend: a canvas th"
    ]  # fmt: skip
