"""The fourteen steps that turn a clean picture into a bad splat: their order, odds and ranges.

A drawn step is a name, a seed and plain numbers, so a manifest can store it and `apply_steps`
can repeat it to the byte. Each step draws from its own seed: leaving one out changes no other.
The order is that of their causes: tracking, the Gaussians, their view, the recording.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from splatmend.core.errors import InputError
from splatmend.core.resample import blur
from splatmend.training.degradations import steps_camera, steps_splat
from splatmend.training.degradations.patch_masks import PatchOptions, patch_mask
from splatmend.training.faces.regions import REGIONS, RegionStrengths, strength_map

__all__ = ["STEPS", "Drawn", "Range", "StepKind", "apply_steps", "draw_steps", "one_thread"]

Step = Callable[..., Tensor]
"""step(rgb, *, strength, generator, alpha=None, **parameters) -> rgb; see `steps_splat`."""


@dataclass(frozen=True)
class Range:
    """The range of a parameter, from light degradation to heavy."""

    light: float
    heavy: float
    geometric: bool = False
    """If true, the range is spaced geometrically."""

    def at(self, share: float) -> float:
        """Return the value at `share` of the way from light to heavy, to four digits."""
        if self.geometric:
            value = self.light * (self.heavy / self.light) ** share
        else:
            value = self.light + share * (self.heavy - self.light)
        return float(f"{value:.4g}")


@dataclass(frozen=True)
class StepKind:
    """One of the fourteen steps: its function, probability and ranges."""

    apply: Step
    probability: float
    ranges: Mapping[str, Range]
    patchy: float = 1.0
    """Probability that it applies in patches instead of everywhere."""
    focus: tuple[str, ...] = REGIONS
    """Regions in which it can apply."""
    whole_frame: bool = False
    """If true, it ignores regions, because it happens to the finished frame."""


_CLEAN = 0.05  # probability of a clean picture, besides the case that no step is drawn
_HEAD = tuple(name for name in REGIONS if name != "ground")

STEPS: Mapping[str, StepKind] = MappingProxyType(
    {
        "misplace": StepKind(
            steps_camera.misplace,
            probability=0.2,
            ranges={"reach": Range(1.0, 6.0), "wavelength": Range(160, 64, geometric=True)},
            focus=("eyes", "mouth", "nose", "skin"),
        ),
        "coarsen": StepKind(
            steps_splat.coarsen,
            probability=0.35,
            ranges={
                "spacing": Range(2.4, 8.0, geometric=True),
                "misalign": Range(0.0, 0.35),
                "hardness": Range(0.2, 2.0),
                "color_noise": Range(0.0, 0.02),
            },
            patchy=0.5,
        ),
        "decimate": StepKind(
            steps_splat.decimate,
            probability=0.6,
            ranges={
                "spacing": Range(1.6, 2.4),
                "keep": Range(0.5, 0.03, geometric=True),
            },
            patchy=0.3,
        ),
        "melt": StepKind(
            steps_splat.melt,
            probability=0.15,
            ranges={"share": Range(0.03, 0.3), "growth": Range(2.0, 5.0)},
        ),
        "clump": StepKind(
            steps_splat.clump,
            probability=0.3,
            ranges={
                "spacing": Range(2.5, 6.0, geometric=True),
                "length": Range(8.0, 24.0),
                "hardness": Range(0.8, 2.5),
            },
            focus=("hair",),
        ),
        "needles": StepKind(
            steps_splat.needles,
            probability=0.15,
            ranges={
                "density": Range(2.0, 25.0, geometric=True),
                "length": Range(4.0, 14.0, geometric=True),
                "opacity": Range(0.25, 0.8),
            },
        ),
        "holes": StepKind(
            steps_splat.holes,
            probability=0.4,
            ranges={
                "spacing": Range(4.0, 20.0, geometric=True),
                "loss": Range(0.15, 0.95),
            },
            patchy=0.5,
        ),
        "ghost": StepKind(
            steps_camera.ghost,
            probability=0.15,
            ranges={"shift": Range(2.0, 10.0, geometric=True), "opacity": Range(0.2, 0.6)},
        ),
        "floaters": StepKind(
            steps_camera.floaters,
            probability=0.1,
            ranges={"count": Range(1.0, 6.0)},
            patchy=0.0,
            whole_frame=True,
        ),
        "view_color": StepKind(
            steps_camera.view_color,
            probability=0.25,
            ranges={"amount": Range(0.01, 0.06)},
            patchy=0.0,  # harmonics are patchy by themselves
            focus=_HEAD,
        ),
        "desaturate": StepKind(
            steps_camera.desaturate,
            probability=0.15,
            ranges={"amount": Range(0.1, 0.6)},
            patchy=0.0,
        ),
        "smear": StepKind(
            steps_camera.smear,
            probability=0.2,
            ranges={"along": Range(1.0, 4.0), "across": Range(0.4, 1.0)},
        ),
        "noise": StepKind(
            steps_camera.noise,
            probability=0.1,
            ranges={"sigma": Range(0.003, 0.02)},
            patchy=0.0,
            whole_frame=True,
        ),
        "compress": StepKind(
            steps_camera.compress,
            probability=0.2,
            ranges={"quality": Range(95, 50)},
            patchy=0.0,
            whole_frame=True,
        ),
    }
)
"""Name -> step, in the order in which they apply."""


@dataclass(frozen=True)
class Drawn:
    """One step as it was drawn, all plain values.

    Raises:
        InputError: an unknown step, or other parameters than those of the step.
    """

    name: str
    seed: int
    parameters: Mapping[str, float] = field(default_factory=dict)
    patches: PatchOptions | None = None
    """None if the step applies everywhere."""

    def __post_init__(self) -> None:
        kind = STEPS.get(self.name)
        if kind is None:
            raise InputError(f"no step {self.name!r}: the steps are {', '.join(STEPS)}")
        if self.parameters.keys() != kind.ranges.keys():
            raise InputError(
                f"{self.name} takes {', '.join(kind.ranges)}, got "
                f"{', '.join(self.parameters) or 'nothing'}"
            )


def draw_steps(seed: int) -> tuple[Drawn, ...]:
    """Draw the steps for one picture; 7 of 100 stay clean, so training includes intact frames.

    One draw sets the severity of the whole avatar. Each parameter lies half way between this
    severity and a draw of its own.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform() -> float:
        return torch.rand((), generator=generator, dtype=torch.float64).item()

    clean, severity = uniform() < _CLEAN, uniform() ** 1.5  # light degradation is more common
    drawn = []
    for name, kind in STEPS.items():
        # unused values are drawn as well, so other odds for one step leave the others unchanged
        happens, patchy, own = uniform(), uniform(), int(uniform() * 2**31)
        values = {n: r.at((severity + uniform()) / 2) for n, r in kind.ranges.items()}
        patches = _draw_patches(uniform)
        if happens < kind.probability and not clean:
            drawn.append(Drawn(name, own, values, patches if patchy < kind.patchy else None))
    return tuple(drawn)


def _draw_patches(uniform: Callable[[], float]) -> PatchOptions:
    return PatchOptions(
        cover=Range(0.25, 0.9).at(uniform()),
        wavelength=Range(48, 240, geometric=True).at(uniform()),
        ratio=Range(1.0, 3.0).at(uniform()),
        angle=Range(0.0, math.pi).at(uniform()),
        softness=Range(0.3, 1.5).at(uniform()),
    )


def apply_steps(
    rgb: Tensor,
    steps: Sequence[Drawn],
    *,
    regions: Tensor,
    strengths: RegionStrengths,
    alpha: Tensor | None = None,
) -> Tensor:
    """Apply the steps to (n, 3, h, w) in [0, 1] one after another.

    The same arguments give the same bytes on the same kind of machine, in any process. It runs on
    one thread, because sums depend on the number of threads.

    Args:
        rgb: the clean pictures.
        steps: steps from `draw_steps` or a manifest.
        regions: (n, h, w) or (h, w) uint8, indices into `REGIONS`.
        strengths: the strength in each region.
        alpha: (n, 1, h, w) in [0, 1], where the pictures have any.
    """
    with one_thread():
        everywhere = torch.ones_like(rgb[:, :1])
        # outside the silhouette only its rim is degraded
        near = everywhere
        if alpha is not None:
            near = (2 * blur(alpha, rgb.shape[-1] / 64)).clamp(0, 1)
        for step in steps:
            kind = STEPS[step.name]
            generator = torch.Generator().manual_seed(step.seed)
            strength = everywhere
            if not kind.whole_frame:
                strength = near * strength_map(regions, strengths.only(kind.focus)).to(rgb)
            if step.patches is not None:
                size = (rgb.shape[2], rgb.shape[3])
                mask = patch_mask(size, rgb.shape[0], generator, step.patches)
                strength = strength * mask.to(rgb)
            struck = kind.apply(
                rgb, strength=strength, generator=generator, alpha=alpha, **step.parameters
            )
            rgb = struck.clamp(0, 1)
    return rgb


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, and restore the setting afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
