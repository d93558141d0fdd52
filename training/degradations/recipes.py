"""Named, seeded, batched degradations that turn a clean picture into a splat render.

Each step takes and returns (n, 3, h, w) in [0, 1] and draws from the generator it
is given, so that a seed names its result. `degrade` strings them together in the
order in which a renderer and a recording would apply them.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from splatmend.core.resample import blur
from splatmend.training.degradations.resplatting import SplatOptions, resplat

__all__ = [
    "Recipe",
    "add_noise",
    "compress",
    "degrade",
    "draw_recipe",
    "floaters",
    "patchy",
]


@dataclass(frozen=True)
class Recipe:
    """What happens to one picture; None and 0 leave a step out."""

    splat: SplatOptions | None = None
    blur_sigma: float = 0.0
    floater_count: int = 0
    noise: float = 0.0
    jpeg_quality: float = 0.0
    patchiness: float = 0.0
    amount: float = 1.0
    """Share of the damage kept: the result is clean + amount * (damaged - clean)."""

    @property
    def does_nothing(self) -> bool:
        """Whether the picture comes back as it was."""
        steps = (self.splat, self.blur_sigma, self.floater_count, self.noise, self.jpeg_quality)
        return not any(steps)


def draw_recipe(generator: torch.Generator) -> Recipe:
    """The training distribution: mostly thinned splats, some light damage, some none."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    def chance(probability: float) -> bool:
        return uniform(0, 1) < probability

    if chance(0.06):  # a clean frame must come back as it is
        return Recipe()
    splat = SplatOptions(
        spacing=math.exp(uniform(math.log(1.8), math.log(5.5))),
        detail=uniform(0.4, 1.3),
        spread=uniform(0.5, 0.9),
        anisotropy=uniform(0.0, 0.6),
        misalign=uniform(0.0, 0.35) if chance(0.3) else 0.0,
        hardness=uniform(0.0, 2.0),
        color_noise=uniform(0.0, 0.02) if chance(0.3) else 0.0,
        opacity=math.exp(uniform(math.log(1.5), math.log(8.0))),
    )
    recipe = Recipe(
        splat=splat if chance(0.93) else None,
        blur_sigma=uniform(0.3, 1.2) if chance(0.3) else 0.0,
        floater_count=int(uniform(1, 6)) if chance(0.1) else 0,
        noise=uniform(0.0, 0.015) if chance(0.1) else 0.0,
        jpeg_quality=uniform(60, 95) if chance(0.2) else 0.0,
        patchiness=uniform(0.3, 1.0) if chance(0.3) else 0.0,
        amount=uniform(0.4, 1.0) if chance(0.25) else 1.0,
    )
    if recipe.splat is None or chance(0.5):
        return recipe
    # half of the avatars were trained in full and thinned afterwards
    keep, spacing = math.exp(uniform(math.log(0.04), math.log(0.5))), uniform(1.5, 2.4)
    return replace(recipe, splat=replace(recipe.splat, spacing=spacing, keep=keep))


def degrade(
    clean: Tensor,
    recipe: Recipe,
    generator: torch.Generator,
    *,
    alpha: Tensor | None = None,
    ground: Tensor | None = None,
) -> Tensor:
    """Apply a recipe to (n, 3, h, w).

    With `alpha` (n, 1, h, w) and `ground` (n, 3, h, w) the Gaussians stand inside the
    silhouette only and their fringe is composited over the ground, as a renderer does.
    """
    damaged = clean
    if recipe.splat is not None:
        damaged, coverage = resplat(damaged, recipe.splat, generator, alpha=alpha)
        if ground is not None:
            damaged = damaged * coverage + ground * (1 - coverage)
    if recipe.blur_sigma:  # the rasteriser's own low-pass filter, set too wide
        damaged = blur(damaged, recipe.blur_sigma)
    if recipe.floater_count:
        damaged = floaters(damaged, recipe.floater_count, generator)
    if recipe.patchiness:
        mask = patchy(clean, recipe.patchiness, generator)
        damaged = clean + mask * (damaged - clean)
    damaged = clean + recipe.amount * (damaged - clean)
    if recipe.noise:
        damaged = add_noise(damaged, recipe.noise, generator)
    if recipe.jpeg_quality:
        damaged = compress(damaged, recipe.jpeg_quality)
    return damaged.clamp(0, 1)


def floaters(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Faint large Gaussians in the air before the head, each in a colour of the picture."""
    n, _, height, width = x.shape
    y = torch.linspace(0, 1, height, device=x.device)[:, None]
    u = torch.linspace(0, 1, width, device=x.device)
    for _ in range(count):
        draw = torch.rand((n, 6), generator=generator).to(x)
        cy, cx, size, ratio, opacity, turn = (v[:, None, None] for v in draw.T)
        dy, dx = y - cy, u - cx
        along = dx * torch.cos(math.pi * turn) + dy * torch.sin(math.pi * turn)
        across = dy * torch.cos(math.pi * turn) - dx * torch.sin(math.pi * turn)
        long_axis, short_axis = 0.05 + 0.15 * size, 0.02 + 0.05 * ratio
        bump = torch.exp(-0.5 * ((along / long_axis) ** 2 + (across / short_axis) ** 2))
        rows = (cy * (height - 1)).long().flatten()
        columns = (cx * (width - 1)).long().flatten()
        color = x[torch.arange(n), :, rows, columns][:, :, None, None]
        cover = (0.4 * opacity * bump)[:, None]
        x = x * (1 - cover) + color * cover
    return x


def patchy(x: Tensor, contrast: float, generator: torch.Generator) -> Tensor:
    """A smooth anisotropic mask (n, 1, h, w) in [1 - contrast, 1]: damage is never even."""
    n, _, height, width = x.shape
    rows = int(torch.randint(2, 7, (), generator=generator))
    columns = int(torch.randint(2, 7, (), generator=generator))
    field = torch.rand((n, 1, rows, columns), generator=generator).to(x)
    field = F.interpolate(field, (height, width), mode="bicubic").clamp(0, 1)
    return 1 - contrast * field


def add_noise(x: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """White Gaussian noise of standard deviation `sigma`, of [0, 1]."""
    return x + sigma * torch.randn(x.shape, generator=generator).to(x)


# JPEG, ITU-T T.81 annex K, tables K.1 and K.2
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56), (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
_CHROMA = (
    (17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99),
)  # fmt: skip
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def compress(x: Tensor, quality: float) -> Tensor:
    """What JPEG at `quality` in [1, 100] does: 8 x 8 DCT coefficients rounded to its tables."""
    scale = 50 / quality if quality < 50 else 2 - quality / 50
    luma = torch.tensor(_LUMA, dtype=x.dtype, device=x.device)
    chroma = torch.full((8, 8), 99.0, dtype=x.dtype, device=x.device)
    chroma[:4, :4] = torch.tensor(_CHROMA, dtype=x.dtype, device=x.device)
    table = (torch.stack((luma, chroma, chroma)) * scale).clamp(min=1)[:, None, None] / 255
    k = torch.arange(8, dtype=x.dtype, device=x.device)
    dct = torch.cos(math.pi / 8 * (k + 0.5) * k[:, None]) / 2
    dct[0] /= math.sqrt(2)
    to_ycc = torch.tensor(_TO_YCC, dtype=x.dtype, device=x.device)
    height, width = x.shape[-2:]
    padded = F.pad(x, (0, -width % 8, 0, -height % 8), "replicate")
    ycc = torch.einsum("ij,njhw->nihw", to_ycc, padded)
    blocks = ycc.unfold(2, 8, 8).unfold(3, 8, 8)  # (n, 3, h/8, w/8, 8, 8)
    coefficients = dct @ blocks @ dct.T
    blocks = dct.T @ ((coefficients / table).round() * table) @ dct
    ycc = blocks.permute(0, 1, 2, 4, 3, 5).reshape(ycc.shape)
    rgb = torch.einsum("ij,njhw->nihw", torch.linalg.inv(to_ycc), ycc)
    return rgb[..., :height, :width]
