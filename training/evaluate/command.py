"""`splatmend evaluate`: one table for each set, all rows on the same pictures.

Rows are the degraded input itself, every restorer named, and the same with references. Further rows
are results of other programs and, for turbo, the round trip through its autoencoder. Sets are the
test split of portraits, degraded by fixed recipes, and folders of real (render, reference) pairs.
Nothing here ever selects a checkpoint.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from splatmend.core.errors import InputError
from splatmend.core.pixels import crop_to, from_tensor, pad_to_multiple, to_tensor
from splatmend.core.references import Guidance, Guide
from splatmend.core.restore.frames import RestoreOptions, restore_pixels
from splatmend.core.restore.registry import load_restorer
from splatmend.core.restorer import Restorer
from splatmend.training.data.pairs import (
    PICTURE_SUFFIXES,
    PairSource,
    folder_pairs,
    manifest_pairs,
    portrait_pairs,
    read_picture,
    split_folders,
    subject_box,
)
from splatmend.training.evaluate.guided_rows import (
    guidance_for,
    read_guides,
    reference_files,
    set_guides,
    without_references,
)
from splatmend.training.evaluate.metrics import Measures
from splatmend.training.evaluate.options import (
    FLOOR,
    REFERENCE,
    EvaluateConfig,
    external_folders,
    read_options,
)
from splatmend.training.evaluate.report import (
    HOW_TO_READ,
    INPUT,
    Values,
    comparison_grid,
    interval_table,
    markdown_table,
    summary,
    write_json,
    write_picture,
    write_text,
)

__all__ = ["EvaluateConfig", "evaluate", "main", "markdown_table"]

_GRID_ROWS = 6


@dataclass(frozen=True)
class _Set:
    """Pairs that are judged together."""

    name: str
    pairs: Sequence[PairSource]
    guides: Mapping[str, Guide]
    """From references, by the label of their row."""


@dataclass(frozen=True)
class _Rows:
    """Makers of the rows of every set."""

    restorers: Mapping[str, Restorer]
    options: RestoreOptions
    floor: Callable[[Tensor], Tensor] | None
    device: torch.device


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `splatmend evaluate ...`; errors are the caller's to report."""
    evaluate(read_options(arguments, str(__doc__)))


def evaluate(config: EvaluateConfig) -> dict[str, dict[str, Values]]:
    """Measure every set, write the report, return {set: {row: {measure: values}}}.

    The report is written anew after each set, so that a set that fails loses no other.
    """
    sets = _sets(config)
    externals = {s.name: _external_files(s, config) for s in sets}
    restorers = {name: _load(name, config) for name in config.restorers}
    device = next((r.device for r in restorers.values()), torch.device("cpu"))
    measures = Measures(config.lpips_weights, device, config.measures)
    if measures.remark:
        sys.stderr.write(f"{measures.remark}\n")
    makers = _Rows(restorers, RestoreOptions(config.strength), _floor(restorers, config), device)
    report: dict[str, dict[str, Values]] = {}
    for chosen in sets:
        rows, grid = _measure(chosen, makers, externals[chosen.name], measures, config)
        report[chosen.name] = rows
        write_picture(config.out / f"{_file_name(chosen.name)}.png", grid)
        _write_report(config, report, sets)
    sys.stdout.write(f"{_text(report, config.seed)}\nwritten to {config.out}\n")
    return report


def _load(name: str, config: EvaluateConfig) -> Restorer:
    base, _, adapter = name.partition("+")
    return load_restorer(base, device=config.device, base=config.base, adapter=adapter or None)


def _sets(config: EvaluateConfig) -> list[_Set]:
    guides = read_guides(config.references, config.keys)
    files = reference_files(config.references, config.keys)
    found: list[tuple[str, list[PairSource], dict[str, Guide]]] = []
    if config.faces is not None:
        found.append(("portraits", portrait_pairs(config.faces), {}))
    for manifest in config.manifests:
        found.append((manifest.parent.name, manifest_pairs(manifest), {}))
    for folders in config.pairs:
        renders, references = split_folders(folders)
        pairs = folder_pairs(renders, references, holdout=config.holdout)
        own = set_guides(
            renders,
            references,
            holdout=config.holdout,
            references=config.holdout_references,
            keys=config.holdout_keys,
        )
        found.append(("/".join(renders.parts[-2:]), pairs, own))
    sets: list[_Set] = []
    for name, pairs, own in found:
        taken = sum(s.name.partition(" ")[0] == name for s in sets)
        judged = _thin_out(without_references(name, pairs, files), config.limit)
        sets.append(_Set(f"{name} {taken + 1}" if taken else name, judged, guides | own))
    if empty := [s.name for s in sets if not s.pairs]:
        raise InputError(f"the set {empty[0]} has no picture left: check --holdout and --limit")
    return sets


def _thin_out(pairs: list[PairSource], limit: int | None) -> list[PairSource]:
    if limit is None or limit >= len(pairs):
        return pairs
    return [pairs[i] for i in np.linspace(0, len(pairs) - 1, limit).round().astype(int)]


def _external_files(chosen: _Set, config: EvaluateConfig) -> dict[str, list[Path]]:
    """Find the pictures of each other program, all of them, before anything is measured."""
    found = {}
    for name, folder in external_folders(config):
        inside = folder / chosen.name
        used = inside if inside.is_dir() else folder
        there = {p.stem: p for p in sorted(used.iterdir()) if p.suffix.lower() in PICTURE_SUFFIXES}
        stems = [Path(pair.name).stem for pair in chosen.pairs]
        if missing := [stem for stem in stems if stem not in there]:
            raise InputError(
                f"--external {name}: {used} lacks {len(missing)} of the {len(stems)} pictures of "
                f"{chosen.name}, among them {missing[0]}: every row is judged on the same pictures"
            )
        found[name] = [there[stem] for stem in stems]
    return found


def _read_external(path: Path, reference: Path | None, like: Tensor) -> Tensor:
    """Read a result as large as the pair, or as the whole render and then cut to the pair's box."""
    picture = read_picture(path)
    size = tuple(like.shape[2:])
    if picture.shape[:2] != size and reference is not None:
        whole = read_picture(reference)
        if picture.shape == whole.shape:
            picture = picture[subject_box(whole)]
    if picture.shape[:2] != size:
        raise InputError(
            f"{path} is {picture.shape[1]}x{picture.shape[0]}, the picture that it is judged "
            f"against {size[1]}x{size[0]}: results must have the size of their input"
        )
    return to_tensor([picture], like.device)


def _floor(
    restorers: Mapping[str, Restorer], config: EvaluateConfig
) -> Callable[[Tensor], Tensor] | None:
    """Load SD-Turbo's own autoencoder, there and back, where a restorer stands on it."""
    turbo = sys.modules.get("splatmend.core.turbo.restorer")  # not loaded: nobody needed it
    if turbo is None or not config.floor:
        return None
    devices = [r.device for r in restorers.values() if isinstance(r, turbo.TurboRestorer)]
    if not devices:
        return None
    from diffusers import AutoencoderKL

    from splatmend.core.turbo.base import find_base, load_part

    vae: Any = load_part(AutoencoderKL, find_base(config.base) / "vae", torch.float32)
    vae = vae.to(devices[0]).requires_grad_(requires_grad=False)
    multiple = 2 ** (len(vae.config.block_out_channels) - 1)

    @torch.inference_mode()
    def round_trip(rgb: Tensor) -> Tensor:
        picture = pad_to_multiple(rgb.to(vae.device), multiple)
        latent = vae.encode(2 * picture - 1).latent_dist.mode()
        decoded = (vae.decode(latent).sample.clamp(-1, 1) + 1) / 2
        return crop_to(decoded, (rgb.shape[2], rgb.shape[3])).to(rgb.device)

    return round_trip


def _measure(
    chosen: _Set,
    makers: _Rows,
    externals: Mapping[str, Sequence[Path]],
    measures: Measures,
    config: EvaluateConfig,
) -> tuple[dict[str, Values], NDArray[np.uint8]]:
    """Measure one set; also draw a picture with all rows and the reference side by side."""
    rows: dict[str, Values] = {}
    titles: list[str] = []
    lines: list[list[NDArray[np.uint8]]] = []
    shown = set(np.linspace(0, len(chosen.pairs) - 1, _GRID_ROWS).round().astype(int).tolist())
    for index, pair in enumerate(tqdm(chosen.pairs, chosen.name, disable=not sys.stderr.isatty())):
        degraded, clean = (plane.to(makers.device) for plane in pair())
        guidance = guidance_for(chosen.guides, pair, degraded)
        outputs = _outputs(degraded, clean, guidance, makers)
        for name, files in externals.items():
            outputs[name] = _read_external(files[index], pair.reference, clean)
        rounded = {name: _rounded(picture) for name, picture in outputs.items()}
        for name, row in measures(rounded, clean).items():
            for metric, value in row.items():
                rows.setdefault(name, {}).setdefault(metric, []).append(value)
        outputs[REFERENCE] = clean
        arrays = {n: from_tensor(o.nan_to_num(), np.uint8)[0] for n, o in outputs.items()}
        if index in shown:
            titles = list(arrays)
            lines.append(list(arrays.values()))
        if config.save_pictures:
            for name, array in arrays.items():
                file = f"{Path(pair.name).stem}.png"
                write_picture(config.out / chosen.name / _file_name(name) / file, array)
    return rows, comparison_grid(titles, lines)


def _outputs(
    degraded: Tensor, clean: Tensor, guidance: Mapping[str, Guidance], makers: _Rows
) -> dict[str, Tensor]:
    outputs = {INPUT: degraded}
    for name, restorer in makers.restorers.items():
        outputs[name] = restore_pixels(restorer, degraded, makers.options)
        for label, proposed in guidance.items():
            guided = restore_pixels(restorer, degraded, makers.options, proposed)
            outputs[f"{name} + {label}"] = guided
    if makers.floor is not None:
        outputs[FLOOR] = makers.floor(clean)
    return outputs


def _rounded(picture: Tensor) -> Tensor:
    """Round to 8 bits, as a viewer gets it; a picture that is not finite stays for the measures."""
    if not picture.isfinite().all():
        return picture
    return to_tensor(from_tensor(picture, np.uint8), picture.device)


def _write_report(
    config: EvaluateConfig, report: dict[str, dict[str, Values]], sets: Sequence[_Set]
) -> None:
    pictures = {s.name: [pair.name for pair in s.pairs] for s in sets}
    figures = {
        name: {"pictures": pictures[name], "rows": summary(rows, seed=config.seed)}
        for name, rows in report.items()
    }
    write_json(config.out / "evaluation.json", report)
    write_json(config.out / "summary.json", {"settings": asdict(config), "sets": figures})
    write_text(config.out / "evaluation.md", _text(report, config.seed))


def _text(report: Mapping[str, Mapping[str, Values]], seed: int) -> str:
    parts = []
    for name, rows in report.items():
        parts += [f"### {name}", markdown_table(rows), interval_table(rows, seed=seed)]
    return "\n\n".join(part for part in [*parts, HOW_TO_READ] if part) + "\n"


def _file_name(name: str) -> str:
    """Make a file name: names of sets and rows may be paths."""
    return name.replace("/", "_")


if __name__ == "__main__":
    main()
