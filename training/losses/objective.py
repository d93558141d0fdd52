"""The loss of a training run: named, weighted terms."""

import torch
from torch import Tensor, nn

from splatmend.core.perceptual.lpips import Lpips, load_lpips
from splatmend.temporal.loss import temporal_loss
from splatmend.training.config import TrainConfig
from splatmend.training.data.batches import Batch
from splatmend.training.losses.adversarial import make_adversary
from splatmend.training.losses.discriminator import Discriminator
from splatmend.training.losses.dists import DistsLoss, find_dists_weights
from splatmend.training.losses.identity import IdentityLoss, load_embedder
from splatmend.training.losses.shift_mean import shift_mean_loss
from splatmend.training.losses.terms import gram_distance, log_mse
from splatmend.training.models.compact import frozen_compact

__all__ = ["Objective"]

_ALEX_CELL = 16
"""Stride in pixels of AlexNet's deepest layer."""
_ALEX_LEAST = 32
"""Side in pixels of the smallest picture for AlexNet."""


class Objective(nn.Module):
    """A map from restored (n, 3, h, w) and its batch to the weighted terms, each a scalar, by name.

    Backbones are frozen, and loaded only for terms with a weight other than 0.

    Raises:
        ModelError: the networks of a term are missing.
    """

    def __init__(self, config: TrainConfig, device: str | torch.device = "cpu") -> None:
        super().__init__()
        self.weights, self.config = config.loss, config
        folder, weights = config.lpips_weights, config.loss
        on_vgg = (weights.lpips_vgg, weights.gram, weights.dists, weights.adversarial)
        self.alex = load_lpips("alex", folder, device) if weights.lpips_alex else None
        self.vgg = load_lpips("vgg", folder, device) if any(on_vgg) else None
        self.teacher = frozen_compact(config.teacher).to(device) if weights.shift_mean else None
        self.dists = self.identity = self.opponent = None
        if weights.dists and self.vgg is not None:
            self.dists = DistsLoss(self.vgg, find_dists_weights(folder))
        if weights.identity and config.identity_model is not None:
            self.identity = IdentityLoss(load_embedder(config.identity_model)).to(device)
        if weights.adversarial and self.vgg is not None:
            adversary = make_adversary(self.vgg, seed=config.seed)
            self.opponent = Discriminator(adversary, learning_rate=config.opponent_rate)

    def forward(self, restored: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        """Compute the terms of update `step`, which determines the windows of the backbones."""
        clean, window = batch.clean, self.window(step)
        terms = {
            "l1": (restored - clean).abs().mean(),
            "log_mse": log_mse(restored, clean).mean(),
        }
        if self.alex is not None:
            # The window starts anywhere on AlexNet's grid. When crops always started on it,
            # compact, which has a grid as well, gained 7 % of this distance there and nowhere else.
            seen = self._window(step, max(self.config.crop - _ALEX_CELL, _ALEX_LEAST))
            ours, target = self._features(self.alex, restored[seen], clean[seen])
            terms["lpips_alex"] = self._bent(self.alex.distance(ours, target)).mean()
        if self.vgg is not None:
            ours, target = self._features(self.vgg, restored[window], clean[window])
            terms["lpips_vgg"] = self._bent(self.vgg.distance(ours, target)).mean()
            terms["gram"] = gram_distance(ours, target).mean()
        if self.dists is not None:
            terms["dists"] = self.dists(restored[window], clean[window]).mean()
        if self.identity is not None:
            terms["identity"] = self.identity(restored, clean).mean()
        if self.opponent is not None:
            fake = restored[window]
            terms["adversarial"] = self.opponent.adversary.generator_loss(fake).mean()
        terms |= self._over_time(restored, batch)
        weights = {name: getattr(self.weights, name) for name in terms}
        return {name: weights[name] * term for name, term in terms.items() if weights[name]}

    def _over_time(self, restored: Tensor, batch: Batch) -> dict[str, Tensor]:
        if batch.flow is None or batch.valid is None:
            return {}
        terms = {}
        if self.weights.temporal:
            clips = (batch.as_clips(restored), batch.as_clips(batch.clean))
            terms["temporal"] = temporal_loss(*clips, batch.flow, batch.valid).mean()
        if self.teacher is not None:
            with torch.no_grad(), self._precision(restored):
                taught = self.teacher(batch.degraded).float()
            ours = batch.as_clips(restored - batch.degraded)
            terms["shift_mean"] = shift_mean_loss(ours, batch.as_clips(taught), batch.flow).mean()
        return terms

    def _bent(self, distance: Tensor) -> Tensor:
        """Compress distances (n,) above the knee to about their logarithm."""
        knee = self.weights.lpips_knee
        return knee * (distance / knee).log1p() if knee else distance

    def window(self, step: int) -> tuple[slice, ...]:
        """Draw the window of some crops for VGG: unbiased, at a fraction of the cost."""
        return self._window(step, self.config.vgg_side, self.config.vgg_crops)

    def _window(self, step: int, side: int, crops: int | None = None) -> tuple[slice, ...]:
        generator = torch.Generator().manual_seed(step)
        room = self.config.crop - side + 1
        top, left = torch.randint(room, (2,), generator=generator).tolist()
        return (slice(0, crops), slice(None), slice(top, top + side), slice(left, left + side))

    def _features(
        self, backbone: Lpips, restored: Tensor, clean: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Compute the features of both, channels last, in the run's precision.

        Half precision takes half the time; distances stay float32.
        """

        def features(rgb: Tensor) -> list[Tensor]:
            rgb = rgb.contiguous(memory_format=torch.channels_last)
            with self._precision(rgb):
                return backbone.features(rgb)

        ours = features(restored)
        with torch.no_grad():
            return ours, features(clean)

    def _precision(self, pictures: Tensor) -> torch.autocast:
        half = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}
        dtype = half[self.config.mixed_precision]
        return torch.autocast(pictures.device.type, dtype, enabled=dtype is not None)
