"""Restoration of viser's background image before viser encodes it.

    server = viser.ViserServer()
    attachment = splatmend.plugin.attach.viser.attach(server)
    ...                                              # nerfview or your own callbacks, unchanged
    attachment.detach()

Covers every caller of `scene.set_background_image`, such as nerfview's viewers and those of
gsplat's examples. It does not cover splats that the browser renders.

Call `attach` before you make the viewer: then it also restores the first image of each client.

Source: viser 1.1.1, _scene_api.py and _viser.py.
"""

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

from splatmend.core.errors import InputError
from splatmend.plugin.client import Client, ClientOptions, Wrapped, wrap
from splatmend.plugin.protocol.zmq_sockets import DEFAULT_URL

__all__ = ["Attachment", "attach"]

_METHOD = "set_background_image"
_LONGEST_CONNECT_S = 5.0


def attach(
    target: Any, *, url: str = DEFAULT_URL, options: ClientOptions | None = None
) -> "Attachment":
    """Restore the background images of a viser server, of one of its clients, or of a scene.

    A server has a scene that all clients see, and one scene for each present or future client. Each
    scene is its own stream. Its frame client ends when the viser client leaves. An image that
    cannot be restored in time is shown as it came. The mode sync suits viewers that render only
    when something moves: in latest, the last image on the screen would be an older one.

    Args:
        target: `viser.ViserServer`, `viser.ClientHandle` or `viser.SceneApi`.
        url: of the frame server.
        options: of the client for each scene; its stream is named after the viser client.

    Raises:
        InputError: `target` has another type or is attached already, or the address cannot be used.
    """
    attachment = Attachment(url, options or ClientOptions(program="splatmend-viser"))
    # a server and its clients forward their scenes' methods: look for those first
    if hasattr(target, "on_client_connect"):
        attachment.add_server(target)
    elif hasattr(target, "client_id") and hasattr(target, "scene"):
        attachment.add(target.scene, f"viser {target.client_id}")
    elif hasattr(target, _METHOD):
        attachment.add(target, "viser")
    else:
        raise InputError(
            f"a viser server, client or scene has background images, {type(target).__name__} "
            f"has none: give one of those"
        )
    return attachment


class Attachment:
    """The result of `attach`; `detach` undoes it, and so does the end of `with`."""

    def __init__(self, url: str, options: ClientOptions) -> None:
        self._url = url
        self._options = options
        self._lock = threading.Lock()
        self._scenes: dict[int, _Attached] = {}
        self._detached = False

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Return `Client.counts` of each attached scene, by the name of its stream."""
        with self._lock:
            scenes = list(self._scenes.values())
        return {one.stream: one.restore.client.counts for one in scenes}

    def add(self, scene: Any, stream: str) -> None:
        """Restore the images that this scene is given from now on.

        Raises:
            InputError: the scene is attached already, by this or another attachment.
        """
        if _METHOD in vars(scene):
            raise InputError(f"the scene of {stream} is attached already: detach it first")
        client = Client(self._url, replace(self._options, stream=stream))
        restore = wrap(lambda *planes: planes, client, depth=1, alpha_kind="straight", layout="hwc")
        attached = _Attached(scene, stream, restore)
        with self._lock:
            if not self._detached:
                self._scenes[id(scene)] = attached
                setattr(scene, _METHOD, _restoring(getattr(scene, _METHOD), restore))
                return
        client.close()

    def add_server(self, server: Any) -> None:
        """Restore the images that this server and its clients are given from now on."""
        self.add(server.scene, "viser")

        # async: viser awaits it before it starts callbacks that were registered later
        async def came(client: Any) -> None:
            if not self._detached and _METHOD not in vars(client.scene):
                self.add(client.scene, f"viser {client.client_id}")

        def left(client: Any) -> None:
            self.remove(client.scene)

        server.on_client_connect(came)
        server.on_client_disconnect(left)

    def remove(self, scene: Any) -> None:
        """Give a scene its own method back and end its stream; ignore a scene not attached."""
        with self._lock:
            attached = self._scenes.pop(id(scene), None)
        if attached is not None:
            delattr(scene, _METHOD)
            attached.restore.client.close()

    def detach(self) -> None:
        """Give all scenes their own methods back, end all streams, ignore future clients."""
        with self._lock:
            self._detached = True
            scenes = [attached.scene for attached in self._scenes.values()]
        for scene in scenes:
            self.remove(scene)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()


@dataclass(frozen=True, eq=False)
class _Attached:
    scene: Any
    stream: str
    restore: Wrapped[...]


def _restoring(original: Callable[..., Any], restore: Wrapped[...]) -> Callable[..., Any]:
    # viser calls from a pool of threads; our client belongs to one thread at a time
    one_at_a_time = threading.Lock()
    client = restore.client
    is_first = client.options.mode == "sync"

    @functools.wraps(original)
    def set_background_image(image: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal is_first
        if image is not None:
            with one_at_a_time:
                if is_first:  # wait for the connection, because this image may stay on the screen
                    client.wait(min(client.options.deadline_ms / 1e3, _LONGEST_CONNECT_S))
                    is_first = False
                image = restore(image, kwargs.get("depth"))[0]
        return original(image, *args, **kwargs)

    return set_background_image
