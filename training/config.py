"""A training run as one frozen value, put together from groups of settings.

Every field is an option of `splatmend train`, `train-adapter` or `train-turbo`, and a key of their
TOML files. `training/train/options.py` says which command has which group.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from splatmend.core.errors import InputError

__all__ = [
    "SPLAT_TARGETS",
    "CompactNetworks",
    "CompactPool",
    "Data",
    "Holdout",
    "LossNetworks",
    "LossTerms",
    "LossWeights",
    "Machine",
    "Manifests",
    "Optimizer",
    "Output",
    "PairFolders",
    "Pool",
    "Portraits",
    "Rank",
    "Run",
    "Sequences",
    "StillShare",
    "TrainConfig",
    "TurboTraining",
    "Validation",
]

SPLAT_TARGETS = 0.45
"""Share of the targets that are fine splats, unless a run says otherwise."""


@dataclass(frozen=True)
class LossTerms:
    """Weights of the loss terms; 0 leaves a term out."""

    l1: float = 2.0
    """Mean absolute error."""
    log_mse: float = 0.2
    """Logarithm of the mean squared error: 0.1 of it is 1 dB of PSNR, for light damage too."""
    lpips_vgg: float = 1.0
    """LPIPS (VGG)."""
    lpips_alex: float = 0.5
    """LPIPS (AlexNet)."""
    lpips_knee: float = 0.0
    """A distance, not a weight. Above it LPIPS counts by its logarithm, so that light damage weighs
    as much as heavy damage. 0 takes LPIPS as it is."""
    gram: float = 0.07
    """Gram distance of VGG features, per sample (Gatys et al. 2016)."""
    dists: float = 0.0
    """Structure and texture (DISTS, Ding et al. 2020)."""
    identity: float = 0.0
    """1 - cosine of a face embedding of whole crops, which must be aligned faces."""
    adversarial: float = 0.0
    """Hinge loss of small heads on frozen VGG features (training/losses/adversarial.py)."""
    temporal: float = 4.0
    """With --temporal: change of the error along the exact motion (temporal/loss.py)."""


@dataclass(frozen=True)
class LossWeights(LossTerms):
    """Weights of the loss terms; 0 leaves a term out."""

    shift_mean: float = 0.0
    """With --temporal on shifts: L1 to the mean of the teacher's answers to all crops of a sequence
    (training/losses/shift_mean.py)."""


@dataclass(frozen=True)
class TurboTraining:
    """Settings of turbo. Ranks and targets are those of pix2pix-turbo."""

    sd_turbo: str | None = None
    """Folder of SD-Turbo, or "download". Without it, SPLATMEND_SD_TURBO or the hub's cache."""
    rank_unet: int = 16
    """Rank of the LoRA in the UNet."""
    rank_vae: int = 8
    """Rank of the LoRA in the autoencoder."""
    decoder_only: bool = False
    """Put no LoRA into the autoencoder's encoder, as Difix does. By default both halves have it."""
    timestep: int = 999
    """Where the one step starts: 999 is SD-Turbo's own, 199 keeps more detail (Difix)."""
    input_range: Literal["01", "pm1"] = "01"
    """Range that the encoder takes: [0, 1] as img2img-turbo, or [-1, 1] as Difix."""
    prompt: str = ""
    """Prompt of every picture; embedded once and stored in the checkpoint."""
    skip_dropout: float = 0.3
    """Chance that a sample loses one of its skips, each level on its own, unscaled."""
    gradient_checkpointing: bool = False
    """Forget activations and compute them again: a third slower, far less memory."""


@dataclass(frozen=True)
class Portraits:
    """Portraits to train on."""

    faces: tuple[Path, ...] = ()
    """Folders of aligned portraits, degraded on the fly; a manifest.json splits them by person."""


@dataclass(frozen=True)
class PairFolders:
    """Real pairs to train on."""

    pairs: tuple[str, ...] = ()
    """Real pairs, RENDERS:TRUTHS: two folders, matched by file name. RENDERS:TRUTHS:OTHERS adds
    other clean pictures of the same people, for `splatmend train --references`."""


@dataclass(frozen=True)
class Manifests:
    """Prepared pairs to train on."""

    manifests: tuple[Path, ...] = ()
    """Pairs that `splatmend prepare` made: its manifest.jsonl files."""


@dataclass(frozen=True)
class Holdout:
    """Poses kept for validation."""

    holdout: int = 0
    """Keep every k-th pose of the pairs for validation; 0 trains on all."""


@dataclass(frozen=True)
class Rank:
    """Size of an adapter."""

    rank: int = 0
    """Rank of the adapter (LoRA) on compact's frozen weights."""


@dataclass(frozen=True)
class Run:
    """Output, start and length of a run."""

    out: Path = Path("runs/compact")
    """Folder for checkpoints, logs, pictures and the state for resuming."""
    init: Path | None = None
    """Checkpoint to start from; `compact` names the weights that ship."""
    max_steps: int = 6000
    """Number of updates."""
    batch: int = 4
    """Crops that a process draws at once; an update sees batch * accumulate * processes of them."""
    crop: int = 128
    """Side of a crop in pixels, a multiple of 32."""
    learning_rate: float = 4e-4
    """Highest learning rate: it rises during --warmup-steps and then falls to 0."""
    lpips_weights: Path | None = None
    """Folder with lpips_{vgg,alex}_features.fp16.safetensors; without it they are downloaded."""


@dataclass(frozen=True)
class Data:
    """How pairs are read."""

    skip_bad: bool = False
    """Leave out unusable pairs and manifest lines, and count them, instead of stopping at the
    first."""
    augment: bool = False
    """Worsen some prepared or real pairs further (training/degradations/augmentation.py)."""


@dataclass(frozen=True)
class Pool:
    """A pool of degraded frames from which crops are cut (with --faces)."""

    pool: int = 0
    """Degraded portraits at hand, or sequences with --temporal (training/data/frame_pool.py);
    0 degrades every crop by itself."""
    renew: int = 4
    """Updates between two renewals; each replaces one piece of the pool."""
    pair_share: float = 0.5
    """Share of the frames that come from --manifests and --pairs, where those are given too."""
    undamaged: float = 0.0
    """Share of the frames that stay undamaged, so that the network learns to leave them alone."""
    splat_targets: float = SPLAT_TARGETS
    """Share of the portraits whose target is a fine splat, not the portrait itself. Take few where
    the pairs are renders."""
    steps_share: float = 0.0
    """Share of the portraits that get the fourteen steps of `splatmend prepare`, blur blobs and
    noise, instead of re-splatting alone."""


@dataclass(frozen=True)
class CompactPool(Pool):
    """A pool of degraded frames from which crops are cut (with --faces)."""

    references: bool = False
    """Train only the layers of compact that references guide; some references are wrong or missing.
    All other layers keep the weights of --init, or those that ship."""


@dataclass(frozen=True)
class Sequences:
    """Training for stability over time."""

    temporal: bool = False
    """Train on sequences with exact motion: portraits on camera paths with flickering damage; pairs
    seen again whole pixels away (training/data/shifted_crops.py)."""
    frames: int = 3
    """Crops of a sequence; --batch then counts sequences."""
    self_conditioning: float = 0.5
    """Share of the sequences in which the network sees its own result for the frame before."""


@dataclass(frozen=True)
class StillShare(Sequences):
    """Training for stability over time."""

    still_share: float = 0.0
    """With --pool: share of the sequences that are single frames, of the same portraits and of
    --pairs, seen again whole pixels away."""


@dataclass(frozen=True)
class Optimizer:
    """Optimiser and its schedule."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon (training/train/muon.py) takes the same learning rates; an update of compact takes a
    tenth longer."""
    warmup_steps: int = 100
    """Updates during which the learning rate rises."""
    accumulate: int = 1
    """Batches whose gradients make one update."""
    weight_decay: float = 1e-4
    """Decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Longest gradient; longer ones are scaled down to it."""
    max_bad_updates: int = 10
    """Updates with a loss or gradient that is not a number are left out. So many in a row end the
    run."""
    ema: float = 0.999
    """Decay of the averaged weights that are validated and saved."""


@dataclass(frozen=True)
class LossNetworks:
    """Networks that the loss looks through."""

    vgg_side: int = 64
    """Side in pixels of the window of a crop that goes through VGG."""
    vgg_crops: int | None = None
    """Number of a batch's crops that go through VGG in a step; without it,
    all do."""
    identity_model: Path | None = None
    """TorchScript of a face embedder, (n, 3, h, w) in [0, 1] to (n, d), for --loss.identity."""
    opponent_rate: float = 1e-4
    """Learning rate of the heads of --loss.adversarial."""


@dataclass(frozen=True)
class CompactNetworks(LossNetworks):
    """Networks that the loss looks through."""

    teacher: Path | None = None
    """Checkpoint of compact for --loss.shift-mean; without it, the weights that ship."""


@dataclass(frozen=True)
class Validation:
    """Validation, on people or poses that the run does not train on."""

    validate_every: int = 500
    """Updates between two validations."""


@dataclass(frozen=True)
class Output:
    """Saves and logs."""

    save_every: int = 200
    """Updates between two saves."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Trackers beside log.jsonl; each must be installed."""


@dataclass(frozen=True)
class Machine:
    """Hardware, processes and the seed."""

    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of the networks' arithmetic; trained weights stay float32. Pays only where the
    hardware has it."""
    device: Literal["auto", "cpu"] = "auto"
    """auto is the accelerator if there is one; choose among several by `accelerate launch`."""
    workers: int = 1
    """Processes that draw and degrade crops beside the loop; 0 draws in the loop itself."""
    seed: int = 0
    """Names every random choice of the run."""


@dataclass(frozen=True)
class TrainConfig(
    Machine,
    Output,
    Validation,
    CompactNetworks,
    Optimizer,
    StillShare,
    CompactPool,
    Data,
    Run,
    Rank,
    Holdout,
    Manifests,
    PairFolders,
    Portraits,
):
    """All settings of one run: compact, an adapter of it for one avatar, or turbo."""

    base: Literal["compact", "turbo"] = "compact"
    loss: LossWeights = LossWeights()
    turbo: TurboTraining = TurboTraining()

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
                "--references trains compact itself on single frames: it needs --pool, and no "
                "--temporal; neither train-adapter nor train-turbo has it"
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
