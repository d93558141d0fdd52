"""LoRA as data: low-rank changes to a network's weights, read from peft's names and merged.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models". Training uses
peft's layers. Inference adds their product to the weights once and does not need peft.
Both give the same picture (tested).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from splatmend.core.errors import CheckpointError

__all__ = ["PEFT_ALPHA", "Lora", "adapted_weight", "check_lora", "merge_lora", "split_state"]

PEFT_ALPHA = 8.0  # peft's default, which no upstream file states: the scale is 8 / rank


@dataclass(frozen=True)
class Lora:
    """Low-rank changes to one network, by module name: W + alpha / rank * up @ down.

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
        """Return the factor of the product, alpha / rank."""
        return self.alpha / self.rank

    def change(self, name: str) -> Tensor:
        """Return the change of module `name`'s weight, float32 in the shape of that weight."""
        down, up = self.down[name].float(), self.up[name].float()
        product = up.flatten(1) @ down.flatten(1)
        return self.scale * product.view(len(up), *down.shape[1:])


def check_lora(lora: Lora) -> None:
    """Check that the halves fit each other and the rank.

    Raises:
        CheckpointError: they do not.
    """
    if unpaired := sorted(lora.down.keys() ^ lora.up.keys()):
        raise CheckpointError(f"LoRA of {unpaired[0]} has only one of its two halves")
    for name, down in lora.down.items():
        up = lora.up[name]
        tail = (1,) * (down.ndim - 2)
        if (
            down.ndim not in (2, 4)
            or len(down) != lora.rank
            or up.shape[1:] != (lora.rank, *tail)
            or not down.numel() * up.numel()
        ):
            raise CheckpointError(
                f"LoRA of {name} is {tuple(down.shape)} and {tuple(up.shape)}: "
                f"not the two halves of a rank of {lora.rank}"
            )


def split_state(state: Mapping[str, Tensor], adapter: str) -> tuple[Lora, dict[str, Tensor]]:
    """Split a peft state dict into its LoRA and the plain weights beside it.

    Raises:
        CheckpointError: a half of a pair is missing, or shapes and ranks disagree.
    """
    down, up, plain = {}, {}, {}
    for key, value in state.items():
        if ".lora_A." in key:
            down[_module(key, "lora_A", adapter)] = value
        elif ".lora_B." in key:
            up[_module(key, "lora_B", adapter)] = value
        else:
            plain[key.replace(".base_layer.", ".")] = value
    ranks = {len(value) for value in down.values()}
    if len(ranks) > 1:
        raise CheckpointError(f"LoRA layers of one network must share a rank, got {sorted(ranks)}")
    lora = Lora(rank=ranks.pop() if ranks else 1, down=down, up=up)
    check_lora(lora)
    return lora, plain


def _module(key: str, half: str, adapter: str) -> str:
    name, _, rest = key.partition(f".{half}.")
    if rest not in (f"{adapter}.weight", "weight"):
        raise CheckpointError(
            f"{key} does not belong to adapter {adapter!r}: expected {name}.{half}.{adapter}.weight"
        )
    return name


def adapted_weight(parameters: Mapping[str, Tensor], lora: Lora, name: str) -> Tensor:
    """Return the weight of a network's `parameters` that a LoRA changes in layer `name`.

    Raises:
        CheckpointError: the network lacks that layer or has it in another shape.
    """
    weight = parameters.get(f"{name}.weight")
    shape = (len(lora.up[name]), *lora.down[name].shape[1:])
    if weight is None or weight.shape != shape:
        found = "no such layer" if weight is None else f"{tuple(weight.shape)}"
        raise CheckpointError(
            f"LoRA of {name} is for a weight {shape}, the network has {found}: "
            f"the file belongs to another base model"
        )
    return weight


@torch.no_grad()
def merge_lora(network: nn.Module, lora: Lora) -> None:
    """Add a LoRA to the weights of a network without adapters, in place.

    Raises:
        CheckpointError: as `adapted_weight`.
    """
    parameters = dict(network.named_parameters())
    for name in lora.down:
        weight = adapted_weight(parameters, lora, name)
        weight.copy_(weight.float() + lora.change(name))
