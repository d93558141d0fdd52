"""The common set-up of the benchmarks of references: options, clips, pictures, degradation."""

from argparse import ArgumentParser
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from splatmend.core import Reference, References, from_tensor, to_tensor
from splatmend.training.degradations.recipes import Recipe, degrade
from splatmend.training.degradations.resplatting import SplatOptions

Picture = NDArray[np.uint8]
SPLATS = (
    SplatOptions(spacing=4.0, detail=0.9, spread=0.7, anisotropy=0.3, hardness=1.0),
    SplatOptions(spacing=1.9, keep=0.12, detail=0.9, spread=0.7, anisotropy=0.3, hardness=1.0),
)
"""Too few Gaussians, and many merged ones."""


def option_parser(description: str | None, *, data: bool = True) -> ArgumentParser:
    """Make a parser with --model, and with `data` also --data and --lpips-weights.

    The first line of `description` heads the help.
    """
    parser = ArgumentParser(description=str(description).splitlines()[0])
    parser.add_argument("--model", default="compact", help="name or checkpoint of the restorer")
    if data:
        parser.add_argument("--data", type=Path, required=True, help="folder of test data")
        parser.add_argument("--lpips-weights", type=Path, help="folder; else downloaded")
    return parser


def read_talking_head(data: Path) -> list[Picture]:
    """Read all frames of clips/talk_a.mp4."""
    with av.open(str(data / "clips" / "talk_a.mp4")) as clip:
        return [np.asarray(f.to_ndarray(format="rgb24"), np.uint8) for f in clip.decode(video=0)]


def read_picture(path: Path) -> Picture:
    """Read a picture as RGB (h, w, 3)."""
    stored = cv2.imread(str(path))
    if stored is None:
        raise SystemExit(f"{path} cannot be read as a picture")
    return np.ascontiguousarray(stored[..., ::-1], np.uint8)


def resplatted(picture: Picture, seed: int, kind: int) -> Picture:
    """Splat a picture (h, w, 3) with one of `SPLATS`, by turns."""
    generator = torch.Generator().manual_seed(seed)
    recipe = Recipe(splat=SPLATS[kind % len(SPLATS)])
    return from_tensor(degrade(to_tensor([picture]), recipe, generator), np.uint8)[0]


def references_of(*pictures: Picture) -> References:
    """Collect pictures (h, w, 3) as references."""
    return References(Reference(picture=picture) for picture in pictures)
