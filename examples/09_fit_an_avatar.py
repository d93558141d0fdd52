"""A fit of compact to an avatar that is made of a photograph: `splatmend fit avatar.ply fitted/`.

    python examples/09_fit_an_avatar.py --lpips-weights FOLDER    (by default downloaded)

It takes about 13 minutes on two CPU cores with bfloat16, and leaves in fitted/:
    avatar.ply            44,000 Gaussians on a guessed relief of the head; views in whole/
    thin.ply              a tenth of them, to be restored; views in thin/
    adapter.safetensors   the adapter, trained on every other view
    keys/                 the training views as key pairs
    evaluation/           figures, and a picture of the views between
"""

from argparse import ArgumentParser
from pathlib import Path

import cv2
import numpy as np
import torch
from skimage.data import astronaut

from splatmend.core import keep_freed_memory
from splatmend.training.avatars.from_portrait import make_avatar
from splatmend.training.avatars.rendered_pairs import PairsConfig, front_camera
from splatmend.training.data.portraits import Portrait
from splatmend.training.faces.foreground import cut_out
from splatmend.training.gaussians.ply import write_ply
from splatmend.training.train.fit import FitConfig, fit

HEAD = np.s_[0:250, 80:330]  # of the photograph (NASA, public domain): rows, columns


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("fitted"))
    parser.add_argument("--lpips-weights", type=Path)
    parser.add_argument("--steps", type=int, default=FitConfig.steps)
    parser.add_argument("--frames", type=int, default=20, help="views, half of them for evaluation")
    parser.add_argument("--side", type=int, default=512, help="pixels of a view's side")
    arguments = parser.parse_args()
    keep_freed_memory()
    avatar = arguments.out / "avatar.ply"
    if not avatar.exists():
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_avatar(avatar)
    fit(
        FitConfig(
            avatar,
            arguments.out,
            keep=0.1,
            frames=arguments.frames,
            size=(arguments.side, arguments.side),
            steps=arguments.steps,
            lpips_weights=arguments.lpips_weights,
        )
    )


def write_avatar(path: Path) -> None:
    head = astronaut()[HEAD]
    pixels = np.asarray(cv2.resize(head, (512, 512), interpolation=cv2.INTER_CUBIC), np.uint8)
    portrait = Portrait("astronaut", pixels, len(head) / 512, cut_out(pixels))
    camera = front_camera(PairsConfig(out=path.parent))
    with torch.inference_mode():
        write_ply(path, make_avatar(portrait, np.random.default_rng(1), camera))


if __name__ == "__main__":
    main()
