"""A wrapped render function, which returns restored pictures and leaves other results alone.

    python examples/03_wrap_a_renderer.py           prints the result for four frames

The function may return an image, or a tuple with an image first: numpy or torch, on any device.
Here the server runs in this process; elsewhere it is `splatmend serve`.
"""

import sys

import torch

from splatmend.core import load_restorer
from splatmend.plugin.client import Client, ClientOptions, wrap
from splatmend.plugin.server import Server, ServerOptions, engine_of
from splatmend.training.gaussians.ply import Splats
from splatmend.training.gaussians.rasterizer import Camera
from splatmend.training.gaussians.rasterizer import render as rasterize

torch.manual_seed(0)
count = 1000
ball = torch.nn.functional.normalize(torch.randn(count, 3), dim=1)
splats = Splats(
    center=ball,
    log_scale=torch.full((count, 3), -2.8),
    rotation=torch.randn(count, 4),
    opacity=torch.full((count,), 3.0),
    harmonics=(ball + 0.3 * torch.randn(count, 3))[:, None],
)


def render(angle: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Render like a viewer: premultiplied colour (3, h, w) and alpha (1, h, w)."""
    camera = Camera.look_at((4 * angle, 0.0, -4.0), fov_y=40, size=(128, 160))
    seen = rasterize(splats, camera)
    return seen.color, seen.alpha


engine = engine_of(load_restorer("compact"))
with (
    Server([engine], ServerOptions(urls=("tcp://127.0.0.1:0",))) as server,
    Client(server.urls[0], ClientOptions(deadline_ms=30000)) as client,
    torch.no_grad(),
):
    client.wait()  # optional: until the server is found, frames stay raw
    restoring_render = wrap(render, client, alpha=1)  # the one line
    for frame in range(4):
        raw, _ = render(frame / 100)
        image, alpha = restoring_render(frame / 100)
    change = (image - raw).abs().mean().item() * 255
    outside = torch.equal(image[:, alpha[0] == 0], raw[:, alpha[0] == 0])
    sys.stdout.write(
        f"{client.counts['restored']} of 4 frames restored, the last changed by {change:.2f} of "
        f"255 on average; the same where alpha is 0: {outside}\n"
    )
