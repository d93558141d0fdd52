"""Named, seeded, batched degradations that turn a clean picture into a splat render.

Each step takes and returns (n, 3, h, w) in [0, 1]. It draws from the given generator, so a seed
determines its result. `degrade` applies the steps in the order of a renderer and a recording.
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
    """The steps for one picture; None and 0 leave a step out."""

    splat: SplatOptions | None = None
    blur_sigma: float = 0.0
    """Pixels."""
    floater_count: int = 0
    noise: float = 0.0
    """Standard deviation, of [0, 1]."""
    jpeg_quality: float = 0.0
    """1 to 100."""
    patchiness: float = 0.0
    """Contrast of the mask that makes the degradation uneven, 0 to 1."""
    amount: float = 1.0
    """Share of the degradation that is kept: clean + amount * (degraded - clean)."""

    @property
    def does_nothing(self) -> bool:
        """Check that the recipe leaves a picture unchanged."""
        steps = (self.splat, self.blur_sigma, self.floater_count, self.noise, self.jpeg_quality)
        return not any(steps)


def draw_recipe(generator: torch.Generator) -> Recipe:
    """Draw from the training distribution: mostly thinned splats, sometimes light or no damage."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    def chance(probability: float) -> bool:
        return uniform(0, 1) < probability

    if chance(0.06):  # the network must leave a clean frame unchanged
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
    """Apply a recipe to clean pictures (n, 3, h, w) in [0, 1] -> the same shape and range.

    With `alpha` (n, 1, h, w) and `ground` (n, 3, h, w) the Gaussians stand inside the silhouette
    only. Their fringe is composited over the ground, as in a renderer.

    >>> generator = torch.Generator().manual_seed(0)
    >>> clean = torch.rand(1, 3, 64, 64, generator=generator)
    >>> recipe = Recipe(blur_sigma=1.0, noise=0.01)
    >>> degraded = degrade(clean, recipe, torch.Generator().manual_seed(1))
    >>> degraded.shape
    torch.Size([1, 3, 64, 64])
    >>> bool(degraded.std() < clean.std())
    True
    >>> torch.equal(degraded, degrade(clean, recipe, torch.Generator().manual_seed(1)))
    True
    >>> torch.equal(clean, degrade(clean, Recipe(), generator))
    True
    """
    degraded = clean
    if recipe.splat is not None:
        degraded, coverage = resplat(degraded, recipe.splat, generator, alpha=alpha)
        if ground is not None:
            degraded = degraded * coverage + ground * (1 - coverage)
    if recipe.blur_sigma:  # the rasteriser's own low-pass filter, set too wide
        degraded = blur(degraded, recipe.blur_sigma)
    if recipe.floater_count:
        degraded = floaters(degraded, recipe.floater_count, generator)
    if recipe.patchiness:
        mask = patchy(clean, recipe.patchiness, generator)
        degraded = clean + mask * (degraded - clean)
    degraded = clean + recipe.amount * (degraded - clean)
    if recipe.noise:
        degraded = add_noise(degraded, recipe.noise, generator)
    if recipe.jpeg_quality:
        degraded = compress(degraded, recipe.jpeg_quality)
    return degraded.clamp(0, 1)


def floaters(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Add faint large Gaussians that float before the head, each in a colour of the picture."""
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
    """Draw a smooth anisotropic mask (n, 1, h, w) in [1 - contrast, 1] for uneven degradation."""
    n, _, height, width = x.shape
    rows = int(torch.randint(2, 7, (), generator=generator))
    columns = int(torch.randint(2, 7, (), generator=generator))
    field = torch.rand((n, 1, rows, columns), generator=generator).to(x)
    field = F.interpolate(field, (height, width), mode="bicubic").clamp(0, 1)
    return 1 - contrast * field


def add_noise(x: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Add white Gaussian noise with standard deviation `sigma`, of [0, 1]."""
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
    """Simulate JPEG at `quality` in [1, 100]: 8 x 8 DCT coefficients rounded to its tables.

    Source: ITU-T T.81, annex K.
    """
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
