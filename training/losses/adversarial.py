"""An adversarial term: small heads classify features of a frozen backbone as real or restored.

A discriminator on good features needs few weights and few pictures. Here the backbone is the
VGG-16 of LPIPS, so nothing more is loaded.

The loss is the hinge (Lim and Ye 2017) under spectral norm (Miyato et al. 2018), not the sigmoid.
Heads on strong features soon distinguish restored patches from real ones. A patch that is right
by the margin no longer changes the heads, while the restorer's gradient does not vanish.

Source: Sauer et al. 2021, "Projected GANs Converge Faster"; Kumari et al. 2022, "Ensembling
Off-the-shelf Models for GAN Training".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.parametrizations import spectral_norm

from splatmend.core.errors import InputError
from splatmend.core.perceptual.lpips import Lpips

__all__ = ["Adversary", "Heads", "make_adversary"]

_LEVELS = slice(1, None)  # without the finest, which costs most and sees three pixels
_WIDTHS = (128, 256, 512, 512)
_HIDDEN = 64


class Heads(nn.Module):
    """A small patch classifier for each level; the only part that is trained and saved."""

    def __init__(self, widths: Sequence[int] = _WIDTHS, hidden: int = _HIDDEN) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_head(width, hidden) for width in widths)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Score features (n, c, h, w) of each level -> (n, 1, h', w'), positive if real."""
        return [head(level) for head, level in zip(self.levels, features, strict=True)]


def _head(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        spectral_norm(nn.Conv2d(width, hidden, 1)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(hidden, hidden, 3, stride=2, padding=1)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(hidden, 1, 1)),
    )


@dataclass(frozen=True)
class Adversary:
    """The losses of restorer and heads; pictures are (n, 3, h, w) in [0, 1], losses (n,).

    Train `heads.parameters()` with an optimiser of their own. Their state and that optimiser's
    together resume exactly. `heads` may be wrapped for several processes
    (`dataclasses.replace(adversary, heads=accelerator.prepare(adversary.heads))`).
    """

    vgg: Lpips
    heads: nn.Module

    def generator_loss(self, fake: Tensor) -> Tensor:
        """Compute the loss of `fake` as real; the heads get no gradient and keep their state.

        Gradients left on the heads would be applied by their next update, and train them to accept
        restored pictures (img2img-turbo issue 56). So the heads' values are used as constants.
        """
        heads = self.heads
        if isinstance(heads, DistributedDataParallel):
            heads = heads.module  # the wrapper would wait for gradients that never come
        # copies: the power iteration of spectral norm writes to its buffers
        frozen = {name: buffer.clone() for name, buffer in heads.named_buffers()}
        frozen |= {name: weight.detach() for name, weight in heads.named_parameters()}
        scores = functional_call(heads, frozen, (self._features(fake),))
        return _mean_of_levels([-score for score in scores])

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Compute the heads' loss on `real` and `fake`; no gradient reaches either picture.

        Raises:
            InputError: their shapes differ.
        """
        if real.shape != fake.shape:
            raise InputError(
                f"real and fake must have one shape, got {tuple(real.shape)} and "
                f"{tuple(fake.shape)}"
            )
        with torch.no_grad():
            features = self._features(torch.cat([real, fake]))
        # one pass for both: the same spectral norm, and one forward for each backward
        scores = [score.chunk(2) for score in self.heads(features)]
        return _mean_of_levels([F.relu(1 - real) + F.relu(1 + fake) for real, fake in scores])

    def _features(self, rgb: Tensor) -> list[Tensor]:
        """Compute features scaled to mean square 1 in each pixel.

        So no level dominates, and heads of norm 1 reach the margin.
        """
        return [level * level.shape[1] ** 0.5 for level in self.vgg.features(rgb)[_LEVELS]]


def _mean_of_levels(scores: Sequence[Tensor]) -> Tensor:
    return torch.stack([score.mean((1, 2, 3)) for score in scores]).mean(0)


def make_adversary(vgg: Lpips, *, seed: int) -> Adversary:
    """Draw fresh heads from `seed`, on the backbone's device.

    Raises:
        InputError: the backbone is not VGG-16.
    """
    weight = vgg.convolutions()[-1].weight
    widths = tuple(layer.out_channels for layer in vgg.convolutions())
    if len(widths) != 13 or any(a > b for a, b in pairwise(widths)):
        raise InputError("the heads fit VGG-16's levels: give LPIPS on vgg")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = Heads()
    return Adversary(vgg, heads.to(weight.device))
