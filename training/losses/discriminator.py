"""The discriminator of the adversarial term, which is trained beside the model."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from torch.optim import AdamW

from splatmend.training.losses.adversarial import Adversary

__all__ = ["Discriminator"]


class Discriminator:
    """Heads with an optimiser of their own; the model's own step leaves them alone."""

    def __init__(self, adversary: Adversary, *, learning_rate: float) -> None:
        self.adversary = adversary
        self._heads = adversary.heads
        self._optimizer = AdamW(
            self._heads.parameters(), lr=learning_rate, weight_decay=0.0, betas=(0.0, 0.9)
        )
        self._stepping: Any = self._optimizer
        self._accelerator: Accelerator | None = None

    def prepare(self, accelerator: Accelerator) -> None:
        """Wrap heads and optimiser for the processes of a run; after `load_state_dict`."""
        heads, self._stepping = accelerator.prepare(self._heads, self._optimizer)
        self.adversary = replace(self.adversary, heads=heads)
        self._accelerator = accelerator

    def learn(self, real: Tensor, fake: Tensor) -> Tensor:
        """Train the heads by one step on (n, 3, h, w) of both; return the loss, a scalar."""
        assert self._accelerator is not None
        loss = self.adversary.discriminator_loss(real, fake.detach()).mean()
        self._accelerator.backward(loss)
        if loss.isfinite():
            self._stepping.step()
        self._stepping.zero_grad()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of heads and optimiser, for resuming."""
        return {"heads": self._heads.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of `state_dict`."""
        self._heads.load_state_dict(state["heads"])
        self._optimizer.load_state_dict(state["optimizer"])
