"""What a training run is, as one frozen value; every field is an option of `splatmend train`."""

from dataclasses import dataclass
from pathlib import Path

from splatmend.core.errors import InputError

__all__ = ["LossWeights", "TrainConfig"]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms; 0 leaves a term out."""

    l1: float = 2.0
    log_mse: float = 0.2
    """0.1 of it is 1 dB of PSNR, whatever the damage: light damage must not get worse."""
    lpips_vgg: float = 1.0
    lpips_alex: float = 0.5
    gram: float = 0.07


@dataclass(frozen=True)
class TrainConfig:
    """How to train compact on portraits, or an adapter of it on renders of one avatar."""

    faces: tuple[Path, ...] = ()
    """Folders of aligned portraits (with a manifest.json that splits them by person)."""
    pairs: tuple[str, ...] = ()
    """Real pairs instead: "folder of renders:folder of references", matched by file name."""
    holdout: int = 0
    """Every k-th pose of the pairs is kept for validation; 0 trains on all."""
    rank: int = 0
    """Rank of a personal adapter (LoRA) on frozen weights; 0 trains all of them."""
    out: Path = Path("runs/compact")
    """Where checkpoints, the log and the state for resuming go."""
    max_steps: int = 6000
    """The run ends here, whatever else."""
    batch: int = 4
    crop: int = 128
    learning_rate: float = 4e-4
    warmup_steps: int = 100
    weight_decay: float = 1e-4
    max_grad_norm: float = 1.0
    ema: float = 0.999
    """Decay of the averaged weights that are validated and saved."""
    loss: LossWeights = LossWeights()
    vgg_crops: int = 4
    """How many of a batch's crops, and of which side, go through VGG a step."""
    vgg_side: int = 64
    seed: int = 0
    validate_every: int = 500
    save_every: int = 200
    workers: int = 1
    """Processes that draw and degrade crops beside the loop; 0 draws in the loop itself."""
    device: str = "cpu"
    bf16: bool = False
    """Autocast the network to bfloat16; pays only where the hardware has it."""
    lpips_weights: Path | None = None
    """Folder with lpips_{vgg,alex}_features.fp16.safetensors; without it they are downloaded."""
    init: Path | None = None
    """Checkpoint to start from; without it fresh weights, or the embedded compact's with a rank."""

    def __post_init__(self) -> None:
        if bool(self.faces) == bool(self.pairs):
            raise InputError("train on --faces or on --pairs: give one of the two")
        if self.holdout < 0 or self.holdout == 1 or self.rank < 0:
            raise InputError(
                f"holdout must be 0 or at least 2 and rank at least 0, "
                f"got {self.holdout} and {self.rank}"
            )
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
