"""viser's background images: a stand-in with its signatures, and viser itself where installed."""

from collections.abc import Iterator
from typing import Any, Literal

import cv2
import numpy as np
import pytest

from splatmend.core import Frame
from splatmend.core.errors import InputError
from splatmend.plugin.attach.viser import attach
from splatmend.plugin.client import Client, ClientOptions
from splatmend.plugin.server import Engine, Server, ServerOptions

from waiting import until

OPTIONS = ClientOptions(deadline_ms=10000)
IMAGE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)


class Scene:
    """A scene that keeps its images."""

    def __init__(self) -> None:
        self.shown: list[Any] = []

    def set_background_image(
        self,
        image: np.ndarray | None,
        format: Literal["auto", "png", "jpeg"] = "auto",  # noqa: A002
        *,
        jpeg_quality: int | None = None,
        depth: np.ndarray | None = None,
    ) -> None:
        self.shown.append((image, format, jpeg_quality, depth))


class ViserClient:
    def __init__(self, client_id: int) -> None:
        self.client_id = client_id
        self.scene = Scene()


class ViserServer:
    def __init__(self) -> None:
        self.scene = Scene()
        self.clients: list[ViserClient] = []
        self.came: list[Any] = []
        self.left: list[Any] = []

    def __getattr__(self, name: str) -> Any:  # viser forwards these with a warning
        if name == "set_background_image":
            raise AssertionError("deprecated")
        raise AttributeError(name)

    def on_client_connect(self, callback: Any) -> None:
        self.came.append(callback)
        for client in self.clients:
            run(callback(client))

    def on_client_disconnect(self, callback: Any) -> None:
        self.left.append(callback)

    def connect(self, client_id: int) -> ViserClient:
        client = ViserClient(client_id)
        self.clients.append(client)
        for callback in self.came:
            run(callback(client))
        return client

    def disconnect(self, client: ViserClient) -> None:
        self.clients.remove(client)
        for callback in self.left:
            callback(client)


def run(coroutine: Any) -> None:
    with pytest.raises(StopIteration):
        coroutine.send(None)


@pytest.fixture(scope="module")
def came() -> list[Frame]:
    """Collect the frames of the frame server; the last is the newest."""
    return []


@pytest.fixture(scope="module")
def server(came: list[Frame]) -> Iterator[Server]:
    def negative(frames: Any) -> list[Frame]:
        came.extend(frames)
        return [frame.with_color(255 - frame.color) for frame in frames]

    engine = Engine("negative", negative, uses=("color", "alpha", "depth"))
    with Server([engine], ServerOptions(urls=("tcp://127.0.0.1:0",))) as made:
        yield made


@pytest.fixture
def url(server: Server) -> str:
    return server.urls[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("channels", [3, 4])
def test_images_are_restored_and_arguments_kept(channels, dtype, url) -> None:
    scene = Scene()
    image = np.dstack([IMAGE, IMAGE[..., :1]])[..., :channels]
    image, top = (image, 255) if dtype == np.uint8 else ((image / 255).astype(dtype), 1)
    before = image.copy()
    with attach(scene, url=url, options=OPTIONS):
        scene.set_background_image(image, "png", jpeg_quality=40)
    shown, *others = scene.shown[0]
    assert others == ["png", 40, None]
    assert (shown.dtype, shown.shape) == (image.dtype, image.shape)
    assert np.allclose(shown[..., :3], top - image[..., :3], atol=1e-6)
    assert (shown[..., 3:] == image[..., 3:]).all()
    assert (image == before).all()


@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 1)])
def test_depth_goes_along_and_stays(shape, url, came) -> None:
    scene, depth = Scene(), np.random.default_rng(1).random(shape)
    with attach(scene, url=url, options=OPTIONS):
        scene.set_background_image(image=IMAGE, format="jpeg", depth=depth)
    assert (scene.shown[0][0] == 255 - IMAGE).all()
    assert scene.shown[0][3] is depth
    assert came[-1].size == (6, 8)


@pytest.mark.parametrize(
    "image",
    [None, np.zeros((6, 8), np.uint8), np.full((6, 8, 3), 200), np.zeros((0, 8, 3), np.uint8)],
    ids=["none", "grey", "int64", "empty"],
)
def test_what_cannot_be_restored_goes_through(image, url) -> None:
    scene = Scene()
    with attach(scene, url=url, options=OPTIONS):
        scene.set_background_image(image)
    assert scene.shown[0][0] is image


def test_a_size_that_changes(url) -> None:
    """Covers nerfview, which renders smaller while the camera moves."""
    scene = Scene()
    with attach(scene, url=url, options=OPTIONS):
        for size in ((30, 40), (480, 640), (31, 40), (480, 640)):
            scene.set_background_image(np.zeros((*size, 3), np.uint8))
    assert all((image == 255).all() for image, *_ in scene.shown)
    assert [image.shape[:2] for image, *_ in scene.shown][1:3] == [(480, 640), (31, 40)]


def test_without_a_server_the_image_is_shown_as_it_is(monkeypatch) -> None:
    waits: list[float] = []

    def wait(_: Client, timeout_s: float) -> bool:
        waits.append(timeout_s)
        return False

    monkeypatch.setattr(Client, "wait", wait)
    scene = Scene()
    options = ClientOptions(deadline_ms=600_000)
    with attach(scene, url="tcp://127.0.0.1:9", options=options):
        for _ in range(20):
            scene.set_background_image(IMAGE)
    assert [image is IMAGE for image, *_ in scene.shown] == [True] * 20
    assert waits == [5]  # only the first one waits for the server, and none for an answer


def test_detach_gives_the_method_back(url) -> None:
    scene = Scene()
    attachment = attach(scene, url=url, options=OPTIONS)
    assert list(attachment.counts) == ["viser"]
    with pytest.raises(InputError, match="attached already"):
        attach(scene, url=url)
    attachment.detach()
    attachment.detach()
    assert "set_background_image" not in vars(scene)
    scene.set_background_image(IMAGE)
    assert scene.shown[0][0] is IMAGE
    attach(scene, url=url).detach()


def test_a_stream_for_each_viser_client(url, server) -> None:

    def streams() -> set[str]:
        return {stream.stream for stream in server.figures().streams} & {"viser 0", "viser 7"}

    viewers = ViserServer()
    first = viewers.connect(0)
    attachment = attach(viewers, url=url, options=OPTIONS)
    second = viewers.connect(7)
    for scene in (viewers.scene, first.scene, second.scene):
        scene.set_background_image(IMAGE)
        assert (scene.shown[0][0] == 255 - IMAGE).all()
    assert {name: counts["restored"] for name, counts in attachment.counts.items()} == {
        "viser": 1, "viser 0": 1, "viser 7": 1
    }  # fmt: skip
    assert streams() == {"viser 0", "viser 7"}
    viewers.disconnect(first)
    assert set(attachment.counts) == {"viser", "viser 7"}
    until(lambda: streams() == {"viser 7"})
    first.scene.set_background_image(IMAGE)  # a render thread that has not noticed yet
    assert first.scene.shown[1][0] is IMAGE
    attachment.detach()
    until(lambda: not streams())
    late = viewers.connect(8)
    late.scene.set_background_image(IMAGE)
    assert late.scene.shown[0][0] is IMAGE


def test_one_client_alone(url) -> None:
    client = ViserClient(3)
    with attach(client, url=url, options=OPTIONS) as attachment:
        client.scene.set_background_image(IMAGE)
        assert list(attachment.counts) == ["viser 3"]
    assert (client.scene.shown[0][0] == 255 - IMAGE).all()


def test_what_has_no_background_image() -> None:
    with pytest.raises(InputError, match="str has none"):
        attach("localhost:8080")


# The real one


@pytest.fixture
def real() -> Iterator[Any]:
    viser = pytest.importorskip("viser", reason="viser is not installed")
    made = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
    yield made
    made.stop()


def sent_by(scene: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collect the pictures that a real scene encodes, decoded to RGB."""
    pictures: list[Any] = []

    def queue_message(message: Any) -> None:
        data = np.frombuffer(message.rgb_data, np.uint8)
        pictures.append(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])

    monkeypatch.setattr(scene._websock_interface, "queue_message", queue_message)
    return pictures


def test_real_viser_encodes_what_was_restored(real, url, monkeypatch) -> None:
    pictures = sent_by(real.scene, monkeypatch)
    depth = np.ones((6, 8, 1), np.float32)
    with attach(real, url=url, options=OPTIONS):
        real.scene.set_background_image(IMAGE, format="png", depth=depth)
    real.scene.set_background_image(IMAGE, format="png")
    assert (pictures[0] == 255 - IMAGE).all()
    assert (pictures[1] == IMAGE).all()


def test_real_viser_clients_come_and_leave(real, url, monkeypatch) -> None:
    """Send a browser's first two messages over a real WebSocket."""
    viser = pytest.importorskip("viser")
    msgspec = pytest.importorskip("msgspec")
    from websockets.sync.client import connect

    camera = viser._messages.ViewerCameraMessage(
        wxyz=(1, 0, 0, 0), position=(0, 0, 3), fov=0.8, near=0.1, far=100,
        image_height=48, image_width=64, look_at=(0, 0, 0), up_direction=(0, 1, 0),
    )  # fmt: skip
    version: Any = f"viser-v{viser.__version__}"
    with attach(real, url=url, options=OPTIONS) as attachment:
        at = f"ws://127.0.0.1:{real.get_port()}"
        with connect(at, subprotocols=[version], compression=None) as browser:
            browser.send(msgspec.msgpack.encode(camera.as_serializable_dict()))
            until(lambda: len(attachment.counts) == 2)
            (viewer,) = real.get_clients().values()
            pictures = sent_by(viewer.scene, monkeypatch)
            viewer.scene.set_background_image(IMAGE, format="png")
            assert (pictures[0] == 255 - IMAGE).all()
        until(lambda: list(attachment.counts) == ["viser"])
