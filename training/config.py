"""What a training run is, as one frozen value.

Every field is an option of `splatmend train` and a key of its TOML files. Later words win:
the preset of the kind of run, then the file, then the options on the command line.
"""

import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import tyro

from splatmend.core.errors import InputError

__all__ = [
    "PRESETS",
    "SPLAT_TARGETS",
    "LossWeights",
    "TrainConfig",
    "TurboTraining",
    "parse_config",
]

SPLAT_TARGETS = 0.45
"""Share of the targets that are fine splats, unless a run says otherwise."""

Preset = Literal["compact", "adapter", "turbo"]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms; 0 leaves a term out."""

    l1: float = 2.0
    log_mse: float = 0.2
    """0.1 of it is 1 dB of PSNR, whatever the damage: light damage must not get worse."""
    lpips_vgg: float = 1.0
    lpips_alex: float = 0.5
    lpips_knee: float = 0.0
    """Above it LPIPS counts by its logarithm, so that a change of light damage weighs as much as
    the same share of heavy damage; 0 takes LPIPS as it is. No weight, but a distance."""
    gram: float = 0.07
    """Gram distance of VGG features, per sample (Gatys et al. 2016)."""
    dists: float = 0.0
    """Structure and texture (Ding et al. 2020)."""
    identity: float = 0.0
    """1 - cosine of a face embedding, of whole crops: they must be aligned faces."""
    adversarial: float = 0.0
    """Hinge loss of small heads on frozen VGG features (training/losses/adversarial.py)."""
    temporal: float = 4.0
    """With `temporal` only: change of the error along the exact motion (temporal/loss.py)."""
    shift_mean: float = 0.0
    """With `temporal` on shifts: L1 to the mean of what `teacher` answers to all crops of a
    sequence (training/losses/shift_mean.py)."""


@dataclass(frozen=True)
class TurboTraining:
    """What only turbo has; the ranks and targets are pix2pix-turbo's, the rest the seed's."""

    sd_turbo: str | None = None
    """Folder of SD-Turbo, or "download"; without it SPLATMEND_SD_TURBO or the hub's cache."""
    rank_unet: int = 16
    rank_vae: int = 8
    decoder_only: bool = False
    """No LoRA in the autoencoder's encoder, as Difix; by default in both halves."""
    timestep: int = 999
    """Where the one step starts: 999 is SD-Turbo's own, 199 is kinder to detail (Difix)."""
    input_range: Literal["01", "pm1"] = "01"
    """What the encoder sees: [0, 1] as img2img-turbo, or [-1, 1] as Difix."""
    prompt: str = ""
    """Words behind every picture; embedded once and stored in the checkpoint."""
    skip_dropout: float = 0.3
    """Chance that a sample loses one of its skips, each level on its own, unscaled."""
    gradient_checkpointing: bool = False
    """Forget activations and compute them again: a third slower, far less memory."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train compact, an adapter of it for one avatar, or turbo."""

    base: Literal["compact", "turbo"] = "compact"
    faces: tuple[Path, ...] = ()
    """Folders of aligned portraits, degraded on the fly; a manifest.json splits them by person."""
    manifests: tuple[Path, ...] = ()
    """Pairs that `splatmend prepare` made: its manifest.jsonl files."""
    pairs: tuple[str, ...] = ()
    """Real pairs: "folder of renders:folder of truths", matched by file name. A third folder,
    "renders:truths:others", holds other clean pictures of the same people for `references`."""
    holdout: int = 0
    """Every k-th pose of the pairs is kept for validation; 0 trains on all."""
    skip_bad: bool = False
    """Leave out pairs and manifest lines that cannot be used, and count them, instead of
    stopping at the first."""
    augment: bool = False
    """Worsen some prepared or real pairs further, by the seed's table (`augment`)."""
    rank: int = 0
    """compact: rank of a personal adapter (LoRA) on frozen weights; 0 trains all of them."""
    turbo: TurboTraining = TurboTraining()
    out: Path = Path("runs/compact")
    """Where checkpoints, logs, pictures and the state for resuming go."""
    init: Path | None = None
    """Checkpoint to start from; else fresh weights, or the embedded compact's with a rank."""
    max_steps: int = 6000
    """The run ends after this many updates, whatever else."""
    batch: int = 4
    """Crops a process draws at once; an update sees batch * accumulate * processes of them."""
    accumulate: int = 1
    """Batches whose gradients make one update."""
    crop: int = 128
    pool: int = 0
    """With `faces`: degraded portraits at hand, or with `temporal` sequences, from which crops are
    cut (training/data/frame_pool.py); 0 degrades every crop by itself."""
    renew: int = 4
    """Every so many updates one piece of the pool makes room for a new one."""
    pair_share: float = 0.5
    """With `pool`: how many of its frames are of `manifests` and `pairs`, where those are given
    too."""
    undamaged: float = 0.0
    """With `pool`: how many of its frames come as they should be, to be left alone."""
    splat_targets: float = SPLAT_TARGETS
    """With `pool`: how many of its portraits have a fine splat as their target, not themselves.
    Few, where the pairs are renders."""
    steps_share: float = 0.0
    """With `pool`: share of its portraits that the fourteen steps of `splatmend prepare`, blur
    blobs and noise strike, instead of re-splatting alone."""
    references: bool = False
    """With `pool`: train the layers of compact that references guide, of which some are wrong or
    missing; all others keep the weights of `init`, or of the embedded compact."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon (training/train/muon.py) takes the same learning rates, and a tenth longer for an update
    of compact."""
    learning_rate: float = 4e-4
    warmup_steps: int = 100
    weight_decay: float = 1e-4
    max_grad_norm: float = 1.0
    max_bad_updates: int = 10
    """Updates with a loss or gradient that is no number are left out; so many in a row end the
    run."""
    ema: float = 0.999
    """Decay of the averaged weights that are validated and saved."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """What the networks compute in; trained weights stay float32. Pays only where the hardware
    has it."""
    loss: LossWeights = LossWeights()
    vgg_crops: int | None = None
    """How many of a batch's crops go through VGG in a step; None is all."""
    vgg_side: int = 64
    """Side in pixels of the window of a crop that goes through VGG."""
    identity_model: Path | None = None
    """TorchScript of a face embedder, (n, 3, h, w) in [0, 1] to (n, d), for `loss.identity`."""
    teacher: Path | None = None
    """Checkpoint of compact for `loss.shift_mean`; None is the one in the package."""
    opponent_rate: float = 1e-4
    """Learning rate of the heads of `loss.adversarial`."""
    temporal: bool = False
    """Train on sequences with exact motion: `faces` on camera paths, with damage that flickers;
    `manifests` and `pairs` seen again whole pixels away (training/data/shifted_crops.py)."""
    frames: int = 3
    """Crops of a sequence; `batch` then counts sequences."""
    still_share: float = 0.0
    """With `temporal` and `pool`: how many of the sequences are single frames, of the same
    portraits and of `pairs`, seen again whole pixels away."""
    self_conditioning: float = 0.5
    """Share of the sequences in which the network meets what it made of the frame before."""
    lpips_weights: Path | None = None
    """Folder with lpips_{vgg,alex}_features.fp16.safetensors; without it they are downloaded."""
    seed: int = 0
    validate_every: int = 500
    save_every: int = 200
    workers: int = 1
    """Processes that draw and degrade crops beside the loop; 0 draws in the loop itself."""
    device: Literal["auto", "cpu"] = "auto"
    """auto is the accelerator if there is one; choose among several by `accelerate launch`."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Beside log.jsonl; each must be installed."""

    def __post_init__(self) -> None:
        self._check_data()
        self._check_sequences()
        if self.rank and self.base != "compact":
            raise InputError("--rank is compact's: turbo has --turbo.rank-unet and rank-vae")
        if self.crop % 32 or self.crop < self.vgg_side:
            raise InputError(
                f"crop must be a multiple of 32 and at least vgg_side ({self.vgg_side}), "
                f"got {self.crop}"
            )
        if not 0 < self.warmup_steps < self.max_steps:
            raise InputError(
                f"warmup_steps must lie between 0 and max_steps ({self.max_steps}), "
                f"got {self.warmup_steps}"
            )
        if self.loss.identity and self.identity_model is None:
            raise InputError("loss.identity needs --identity-model, a TorchScript face embedder")
        if min(self.batch, self.accumulate, self.renew, self.validate_every, self.save_every) < 1:
            raise InputError(
                "batch, accumulate, renew, validate_every and save_every must be at least 1"
            )

    def _check_data(self) -> None:
        if not (self.faces or self.manifests or self.pairs):
            raise InputError("nothing to train on: give --faces, --manifests or --pairs")
        if self.faces and (self.manifests or self.pairs) and not self.pool:
            raise InputError(
                "train on --faces or on --manifests and --pairs; on both together with --pool"
            )
        for name in ("pair_share", "undamaged", "splat_targets", "steps_share", "still_share"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise InputError(f"{name} must lie in [0, 1], got {share}")
        if min(self.holdout, self.rank, self.pool) < 0 or self.holdout == 1:
            raise InputError(
                f"holdout must be 0 or at least 2, rank and pool at least 0, "
                f"got {self.holdout}, {self.rank} and {self.pool}"
            )
        if self.pool and not self.faces:
            raise InputError("--pool needs --faces")
        guided = self.pool and self.base == "compact" and not (self.rank or self.temporal)
        if self.references and not guided:
            raise InputError(
                "--references trains compact itself on single frames: it needs --pool, and neither "
                "--base turbo, --rank nor --temporal"
            )

    def _check_sequences(self) -> None:
        if self.temporal and self.frames < 2:
            raise InputError(f"--temporal needs at least 2 --frames, got {self.frames}")
        singles = self.manifests or self.pairs or self.undamaged
        if self.temporal and self.faces and singles and not self.still_share:
            raise InputError(
                "--manifests, --pairs and --undamaged are for single frames, --temporal with "
                "--faces trains on moving ones: give --still-share too"
            )
        if self.still_share and not (self.temporal and self.pool):
            raise InputError("--still-share needs --temporal and --pool")
        shifts = self.temporal and (not self.faces or self.still_share == 1)
        if self.loss.shift_mean and (not shifts or self.self_conditioning):
            raise InputError(
                "loss.shift_mean needs --temporal on shifts alone: no --faces, or --still-share 1; "
                "and --self-conditioning 0"
            )
        if self.loss.shift_mean and (self.rank or self.base != "compact"):
            raise InputError("loss.shift_mean is for compact itself, without --rank")
        if self.teacher is not None and not self.loss.shift_mean:
            raise InputError("--teacher is for --loss.shift-mean, which is 0: give it a weight")


PRESETS: Mapping[Preset, Mapping[str, Any]] = {
    "compact": {},
    # measured on renders of one avatar (README)
    "adapter": {
        "rank": 16, "max_steps": 1300, "learning_rate": 1e-3, "vgg_side": 128,
        "frames": 2, "self_conditioning": 0.0,  # with `temporal`: shifts do not follow in time
        "loss": {"l1": 0.5, "log_mse": 0.05, "temporal": 8.0},
    },
    # the seed's configuration
    "turbo": {
        "out": "runs/turbo", "max_steps": 20_000, "batch": 2, "crop": 512, "learning_rate": 5e-5,
        "warmup_steps": 500, "weight_decay": 1e-4, "vgg_side": 512, "augment": True,
        "mixed_precision": "fp16", "ema": 0.0,
        "loss": {"l1": 0.5, "log_mse": 0.0, "lpips_vgg": 1.0, "lpips_alex": 0.0, "gram": 0.07},
    },
}  # fmt: skip


def parse_config(arguments: Sequence[str] | None = None) -> TrainConfig:
    """`[FILE.toml] [--option value ...]` -> the run; what neither says is the preset's.

    The preset is turbo's for `base` turbo, the adapter's for compact on real `pairs` alone,
    else compact's own.

    Raises:
        InputError: a file that cannot be read, an unknown key, or settings that do not fit.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    stated: list[str] = []
    if given and not given[0].startswith("-"):
        stated = list(_options(_read_toml(Path(given.pop(0))), TrainConfig))
    preset = PRESETS[_preset([*stated, *given])]
    words = [*_options(preset, TrainConfig), *stated, *given]
    return tyro.cli(TrainConfig, args=words, prog="splatmend train", description=__doc__)


def _preset(words: Sequence[str]) -> Preset:
    joined = f" {' '.join(words)} "
    if "--base turbo " in joined or "--base=turbo " in joined:
        return "turbo"
    named = {word.partition("=")[0] for word in words}
    return "adapter" if "--pairs" in named and "--faces" not in named else "compact"


def _read_toml(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from error


def _options(values: Mapping[str, Any], kind: type, prefix: str = "") -> Iterator[str]:
    """Keys and values as the words that the command line has for them."""
    known = {field.name: field.default for field in fields(kind)}
    for key, value in values.items():
        if key not in known:
            raise InputError(
                f"there is no setting {prefix}{key}; the table has {', '.join(sorted(known))}"
            )
        name = key.replace("_", "-")
        if isinstance(value, Mapping):
            yield from _options(value, type(known[key]), f"{prefix}{name}.")
        elif isinstance(value, bool):
            yield f"--{prefix}{name if value else f'no-{name}'}"
        elif isinstance(value, Sequence) and not isinstance(value, str):
            yield from (f"--{prefix}{name}", *map(str, value))
        else:
            yield from (f"--{prefix}{name}", str(value))
