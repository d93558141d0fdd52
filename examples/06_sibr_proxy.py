"""A restoring proxy between a SIBR viewer and its renderer, both unchanged.

    python examples/06_sibr_proxy.py        restores ten pictures of a toy renderer with compact

For a real viewer start its renderer as usual, on port 6009, then `splatmend serve` and
`splatmend sibr`. Connect the viewer to port 6019.
"""

import json
import socket
import struct
import sys
import threading

import numpy as np

from splatmend.core import load_restorer
from splatmend.plugin.attach.sibr_proxy import ProxyOptions, SibrProxy
from splatmend.plugin.client import Client, ClientOptions
from splatmend.plugin.server import Server, ServerOptions, engine_of

SIDE, PICTURES = 64, 10
noise = np.random.default_rng(0).integers(0, 60, (SIDE, SIDE, 3), np.uint8)


def render() -> None:
    """Serve like network_gui.py: JSON in; picture, length and text out. Pictures get brighter."""
    connection, _ = listener.accept()
    with connection:
        for number in range(PICTURES):
            json.loads(connection.recv(int.from_bytes(connection.recv(4), "little")))
            connection.sendall((noise + 15 * number).tobytes())
            connection.sendall(struct.pack("<I", 5) + b"scene")


listener = socket.create_server(("127.0.0.1", 0))
renderer = threading.Thread(target=render)
renderer.start()
options = ProxyOptions(listen="127.0.0.1:0", renderer=f"127.0.0.1:{listener.getsockname()[1]}")
engine = engine_of(load_restorer("compact", device="cpu"))
with (
    Server([engine], ServerOptions(urls=("tcp://127.0.0.1:0",))) as server,
    Client(server.urls[0], ClientOptions(deadline_ms=10_000)) as client,
    SibrProxy(client, options) as proxy,
):
    client.wait()
    host, port = proxy.address.split(":")
    brightness = []
    with socket.create_connection((host, int(port))) as viewer, viewer.makefile("rb") as replies:
        for _ in range(PICTURES):
            request = json.dumps({"train": 0, "resolution_x": SIDE, "resolution_y": SIDE}).encode()
            viewer.sendall(struct.pack("<I", len(request)) + request)
            picture = np.frombuffer(replies.read(SIDE * SIDE * 3), np.uint8)
            assert replies.read(9)[4:] == b"scene"
            brightness.append(picture.mean())
    in_order = brightness == sorted(brightness)
    sys.stdout.write(f"{proxy.counts['restored']} pictures restored, in order: {in_order}\n")
renderer.join()
listener.close()
