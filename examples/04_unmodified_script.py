"""An unmodified script whose renders `splatmend run` restores.

    python examples/04_unmodified_script.py         runs one, and prints its restored frames

Real scripts import gsplat or diff_gaussian_rasterization, on a GPU. This example creates a
stand-in with the same signature. With a server (`splatmend serve`), one command is enough:

    splatmend run local_viewer.py --point_path avatar.ply
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from splatmend.core import load_restorer
from splatmend.plugin.server import Server, ServerOptions, engine_of

RASTERIZER = """
import torch
from torch import nn

class GaussianRasterizer(nn.Module):
    def forward(self, means3D, means2D, opacities, shs=None, colors_precomp=None):
        column, row = torch.meshgrid(torch.arange(96.0), torch.arange(64.0), indexing="xy")
        waves = [torch.sin(column * row / k) for k in (90, 140, 200)]
        return 0.5 + 0.4 * torch.stack(waves), torch.zeros(len(means3D))
"""
SCRIPT = """
import torch
from diff_gaussian_rasterization import GaussianRasterizer

points = torch.zeros(9, 3)
for training in (True, False):
    with torch.set_grad_enabled(training):
        image, radii = GaussianRasterizer()(points, points, points[:, :1], shs=points[:, None])
    print(f"training {training}: sharpness {image.diff().abs().mean():.4f}")
"""

engine = engine_of(load_restorer("unsharp"))
with (
    TemporaryDirectory() as folder,
    Server([engine], ServerOptions(urls=("tcp://127.0.0.1:0",))) as server,
):
    Path(folder, "diff_gaussian_rasterization.py").write_text(RASTERIZER)
    script = Path(folder, "viewer.py")
    script.write_text(SCRIPT)
    # `splatmend run` with this Python
    command = [sys.executable, "-m", "splatmend.plugin.attach.launch", "--url", server.urls[0]]
    subprocess.run([*command, "--deadline-ms", "30000", str(script)], stderr=sys.stdout, check=True)
