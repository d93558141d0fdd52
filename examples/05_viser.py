"""A viser viewer whose background images are restored before they are encoded.

    python examples/05_viser.py                     shows one image and ends
    python examples/05_viser.py --stay              runs on, for a browser at the printed address

Here the frame server runs in this process; elsewhere it is `splatmend serve`.
"""

import sys
import time

from skimage.data import astronaut

from splatmend.core import load_restorer
from splatmend.plugin.attach.viser import attach
from splatmend.plugin.client import ClientOptions
from splatmend.plugin.server import Server, ServerOptions, engine_of

try:
    import viser
except ModuleNotFoundError:
    sys.stdout.write("viser is not installed: pip install viser, and run this again\n")
    sys.exit()

engine = engine_of(load_restorer("compact"))
viewer = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
with (
    Server([engine], ServerOptions(urls=("tcp://127.0.0.1:0",))) as server,
    attach(viewer, url=server.urls[0], options=ClientOptions(deadline_ms=30000)) as attachment,
):
    viewer.scene.set_background_image(astronaut()[:256, 100:356])  # like any viewer
    restored = attachment.counts["viser"]["restored"]
    sys.stdout.write(f"{restored} image restored; http://127.0.0.1:{viewer.get_port()}\n")
    sys.stdout.flush()
    while "--stay" in sys.argv:
        time.sleep(1)
viewer.stop()
