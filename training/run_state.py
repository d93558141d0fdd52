"""Everything that a resumed training run needs: weights, their average, optimiser, step."""

import copy
from importlib.resources import as_file, files
from pathlib import Path

import torch
from torch import Tensor, nn

from splatmend.core.adapter import save_adapter
from splatmend.core.checkpoint import CheckpointHeader, load_checkpoint, save_checkpoint
from splatmend.core.compact import Compact, CompactConfig
from splatmend.core.errors import CheckpointError, InputError
from splatmend.core.lora import Lora, split_state
from splatmend.training.config import TrainConfig

__all__ = ["RunState"]

_ADAPTER = "default"  # peft's name for the only one
_TARGETS = r"stem|head|gain|(down|up)\.\d+|.*\.conv[12]"


class RunState:
    """The network in training, the running average of its weights, and how far it is."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.step, self.seconds = config, 0, 0.0
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.network, self._base = _build(config)
        self.network.to(config.device).to(memory_format=torch.channels_last)
        self.average = {name: p.detach().clone() for name, p in self._trained()}
        self.optimizer = torch.optim.AdamW(
            [parameter for _, parameter in self._trained()],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=(0.9, 0.99),
        )
        if self._file.exists():
            self._resume()

    @property
    def _file(self) -> Path:
        return self.config.out / "state.pt"

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(n, p) for n, p in self.network.named_parameters() if p.requires_grad]

    def _resume(self) -> None:
        config = self.config
        stored = torch.load(self._file, weights_only=True, map_location=config.device)
        if (stored["seed"], stored.get("rank", 0)) != (config.seed, config.rank):
            raise InputError(
                f"{self._file} was made with seed {stored['seed']} and rank "
                f"{stored.get('rank', 0)}, not {config.seed} and {config.rank}: "
                f"use those or another --out"
            )
        self.step, self.seconds = stored["step"], stored["seconds"]
        self.network.load_state_dict(stored["network"], strict=not config.rank)
        self.average = stored["average"]
        self.optimizer.load_state_dict(stored["optimizer"])

    def advance(self, seconds: float) -> None:
        """Count a finished update and average its weights."""
        self.step += 1
        self.seconds += seconds
        # a young average would remember the initialisation: let it grow with the run
        decay = min(self.config.ema, self.step / (self.step + 10))
        with torch.no_grad():
            for name, value in self._trained():
                self.average[name].lerp_(value, 1 - decay)

    def averaged(self) -> nn.Module:
        """A copy of the network with the averaged weights, for judging."""
        network = copy.deepcopy(self.network)
        network.load_state_dict(self.average, strict=False)
        return network.eval()

    def save(self) -> Path:
        """Write the state for resuming, and the averaged weights as a checkpoint or adapter."""
        unfinished = self._file.with_suffix(".part")
        torch.save(
            {
                "step": self.step,
                "seconds": self.seconds,
                "seed": self.config.seed,
                "rank": self.config.rank,
                "network": {name: value.detach() for name, value in self._trained()},
                "average": self.average,
                "optimizer": self.optimizer.state_dict(),
            },
            unfinished,
        )
        unfinished.replace(self._file)
        notes = {"steps": self.step, "seconds": round(self.seconds), "seed": self.config.seed}
        if self.config.rank:
            path = self.config.out / "adapter.safetensors"
            lora, _ = split_state(self.average, _ADAPTER)
            lora = Lora(lora.rank, float(lora.rank), down=lora.down, up=lora.up)
            save_adapter(path, lora, self._base, notes)
        else:
            path = self.config.out / "compact.safetensors"
            assert isinstance(self.network, Compact)
            header = CheckpointHeader("compact", self.network.config.to_dict(), notes)
            save_checkpoint(path, header, self.average, dtype=torch.float16)
        return path


def _build(config: TrainConfig) -> tuple[Compact, dict[str, Tensor]]:
    """The network to train, and the weights it starts from as the file has them."""
    if config.init is None and not config.rank:
        return Compact(CompactConfig()), {}
    if config.init is not None:
        header, weights = load_checkpoint(config.init)
    else:
        with as_file(files("splatmend.core") / "compact.safetensors") as path:
            header, weights = load_checkpoint(path)
    if header.architecture != "compact":
        raise CheckpointError(
            f"{config.init} holds a {header.architecture!r}: --init takes a checkpoint of compact"
        )
    network = Compact(CompactConfig.from_dict(header.config))
    network.load_state_dict(weights)
    if config.rank:
        _add_lora(network, config.rank)
    return network, weights


def _add_lora(network: Compact, rank: int) -> None:
    """LoRA on every convolution, in place, at scale 1; the base is frozen."""
    from peft import LoraConfig, inject_adapter_in_model

    network.requires_grad_(requires_grad=False)
    settings = LoraConfig(
        r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=_TARGETS
    )
    inject_adapter_in_model(settings, network, adapter_name=_ADAPTER)
