"""Restoration of single frames, as in a renderer's own loop.

    python examples/02_restore_frames.py            prints the size of the change

Opaque frames are restored as a batch. A frame with alpha is restored inside the box around its
visible pixels, and its alpha stays unchanged.
"""

import sys

import numpy as np
from skimage.data import astronaut

from splatmend.core import Frame, RestoreOptions, load_restorer, restore_frames

restorer = load_restorer("compact")  # or the path of a checkpoint; device="cuda:0"
picture = astronaut()[:256, 100:356]  # (256, 256, 3) uint8, as a renderer gives it

(mended,) = restore_frames(restorer, [Frame(color=picture)])
change = np.abs(mended.color.astype(int) - picture)
sys.stdout.write(f"{mended}: changed by {change.mean():.2f} of 255 on average\n")

alpha = np.zeros(picture.shape[:2], np.uint8)
alpha[40:200, 60:200] = 255
head = Frame(color=picture, alpha=alpha)
(mended,) = restore_frames(restorer, [head], RestoreOptions(strength=0.7))
untouched = np.array_equal(mended.color[alpha == 0], picture[alpha == 0])
sys.stdout.write(f"{mended}: nothing changed where alpha is 0: {untouched}\n")
