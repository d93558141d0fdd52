"""LoRA as data: low-rank changes to a network's weights, read from peft's names and merged.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models". For training the
layers are peft's; for inference their product is added to the weights once and peft is
not needed. Both give the same picture (tested).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from splatmend.core.errors import CheckpointError

__all__ = ["PEFT_ALPHA", "Lora", "matches", "merge_lora", "split_state"]

PEFT_ALPHA = 8.0  # peft's default, which no upstream file states: the scale is 8 / rank


@dataclass(frozen=True)
class Lora:
    """Low-rank changes to one network: W + alpha / rank * up @ down, by module name.

    `down` is (rank, in) or (rank, in, k, k), `up` (out, rank) or (out, rank, 1, 1).
    """

    rank: int
    alpha: float = PEFT_ALPHA
    targets: tuple[str, ...] | str = ()
    """Suffixes of module names, or one regular expression over whole names, as in peft."""
    down: Mapping[str, Tensor] = field(default_factory=dict)
    up: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def scale(self) -> float:
        """Factor of the product."""
        return self.alpha / self.rank

    def change(self, name: str, mixing: Tensor | None = None) -> Tensor:
        """What module `name`'s weight gains, float32 in the shape of that weight.

        `mixing` (rank, rank) stands between the two, as M in S3Diff: up @ M^T @ down.
        """
        down, up = self.down[name].float(), self.up[name].float().flatten(1)
        product = up if mixing is None else up @ mixing.float().T
        return self.scale * (product @ down.flatten(1)).view(len(up), *down.shape[1:])


def split_state(state: Mapping[str, Tensor], adapter: str) -> tuple[Lora, dict[str, Tensor]]:
    """Part a peft state dict into its LoRA and the plain weights beside it.

    Raises:
        CheckpointError: one half of a pair is missing, or ranks differ.
    """
    down, up, plain = {}, {}, {}
    for key, value in state.items():
        if ".lora_A." in key:
            down[_module(key, "lora_A", adapter)] = value
        elif ".lora_B." in key:
            up[_module(key, "lora_B", adapter)] = value
        else:
            plain[key.replace(".base_layer.", ".")] = value
    if unpaired := sorted(down.keys() ^ up.keys()):
        raise CheckpointError(f"LoRA of {unpaired[0]} has only one of its two halves")
    ranks = {len(value) for value in down.values()}
    if len(ranks) > 1:
        raise CheckpointError(f"LoRA layers of one network must share a rank, got {sorted(ranks)}")
    return Lora(rank=ranks.pop() if ranks else 1, down=down, up=up), plain


def _module(key: str, half: str, adapter: str) -> str:
    name, _, rest = key.partition(f".{half}.")
    if rest not in (f"{adapter}.weight", "weight"):
        raise CheckpointError(
            f"{key} belongs to no adapter {adapter!r}: expected {name}.{half}.{adapter}.weight"
        )
    return name


@torch.no_grad()
def merge_lora(network: nn.Module, lora: Lora) -> None:
    """Add a LoRA to the weights of a network without adapters, in place.

    Raises:
        CheckpointError: it changes a layer that the network lacks or has in another shape.
    """
    parameters = dict(network.named_parameters())
    for name in lora.down:
        weight, change = parameters.get(f"{name}.weight"), lora.change(name)
        if weight is None or weight.shape != change.shape:
            found = "no such layer" if weight is None else f"{tuple(weight.shape)}"
            raise CheckpointError(
                f"LoRA of {name} is for a weight {tuple(change.shape)}, the network has {found}: "
                f"the file belongs to another base model"
            )
        weight.copy_(weight.float() + change)


def matches(targets: tuple[str, ...] | str) -> Callable[[str], bool]:
    """Whether a module's name is one of `targets`, by peft's rules."""
    if isinstance(targets, str):
        pattern = re.compile(targets)
        return lambda name: pattern.fullmatch(name) is not None
    return lambda name: any(name == t or name.endswith(f".{t}") for t in targets)
