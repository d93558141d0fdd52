"""Muon: momentum with matrices made orthogonal before they are applied.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", with the step
size of Liu et al. 2025, "Muon is Scalable for LLM Training", so that a learning rate means what it
means to AdamW. `torch.optim.Muon` takes matrices alone. Here a convolution (out, in, h, w) is
the matrix (out, in * h * w). Biases follow AdamW's rule, in the same optimiser with one state.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

__all__ = ["Muon", "orthogonal"]

_MOMENTUM = 0.95
# a quintic that lifts every singular value into about [0.7, 1.2] in five rounds (Jordan et al.)
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5


class Muon(AdamW):
    """AdamW, but for weights of at least two dimensions."""

    def __init__(self, params: Iterable[nn.Parameter], *, lr: float, **adam: Any) -> None:
        """Keep the parameters; `adam` holds AdamW's other settings.

        Its `weight_decay` counts for all parameters, its `betas` for biases.
        """
        params = list(params)
        groups = [
            {"params": [p for p in params if (p.ndim > 1) == matrices], "matrices": matrices}
            for matrices in (True, False)
        ]
        super().__init__([group for group in groups if group["params"]], lr=lr, **adam)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        lent = []
        for group in self.param_groups:
            if not group["matrices"]:
                continue
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                self._turn(weight, group["lr"], group["weight_decay"])
                lent.append((weight, weight.grad))
                weight.grad = None  # AdamW passes by parameters that have none
        loss: float | None = super().step(closure)
        for weight, gradient in lent:
            weight.grad = gradient
        return loss

    def _turn(self, weight: nn.Parameter, rate: float, decay: float) -> None:
        gradient = weight.grad
        assert gradient is not None
        state = self.state[weight]
        if not state:
            # named as AdamW's, which reads the state of all when a run is resumed
            state.update(step=torch.zeros(()), exp_avg=torch.zeros_like(weight))
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1 - _MOMENTUM)
        update = gradient.lerp(state["exp_avg"], _MOMENTUM).flatten(1)  # Nesterov's
        scale = 0.2 * math.sqrt(max(update.shape))  # the usual root mean square of Adam's updates
        weight.mul_(1 - rate * decay)
        weight.add_(orthogonal(update).view_as(weight), alpha=-rate * scale)


def orthogonal(matrix: Tensor) -> Tensor:
    """Move the singular values of (m, n) close to 1, by Newton and Schulz, in bfloat16."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = (wide / wide.norm().clamp(min=1e-7)).bfloat16()
    a, b, c = _QUINTIC
    for _ in range(_ROUNDS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    turned: Tensor = x if wide is matrix else x.T
    return turned.to(matrix.dtype).contiguous()
