"""How good the averaged weights are on crops of people or poses that the run does not train on."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from splatmend.core.pixels import from_tensor
from splatmend.temporal.loss import temporal_loss
from splatmend.training.config import TrainConfig
from splatmend.training.data.batches import CHANCES, Batch, Draw, make_batch
from splatmend.training.evaluate.metrics import psnr
from splatmend.training.losses.objective import Objective

__all__ = ["Validation"]

_SEED = 10_000  # far from any training seed; the test split is never read here
_BATCHES, _BATCH = 6, 4
_SHOWN = 6


class Validation:
    """Fixed crops, judged by the same measures each time."""

    def __init__(self, draw: Draw, objective: Objective, config: TrainConfig) -> None:
        self._draw, self._objective, self._config = draw, objective, config

    @torch.no_grad()
    def __call__(self, model: nn.Module, picture: Path) -> dict[str, float]:
        """Measure mean LPIPS, PSNR and, of sequences, warping error of the model and its input.

        `picture` receives some of the crops: input, result and truth side by side, one a row.
        """
        device = next(model.parameters()).device
        totals: dict[str, float] = {}
        for step in range(_BATCHES):
            drawn = self._draw(seed=_SEED, step=step, batch=_BATCH, crop=self._config.crop)
            batch = make_batch(drawn, torch.ones(_BATCH, CHANCES)).to(device)
            hint = () if batch.guidance is None else (batch.guidance,)
            restored = model(batch.degraded, batch.chance, *hint).float().clamp(0, 1)
            row = self._judge({"input": batch.degraded, "ours": restored}, batch)
            for name, value in row.items():
                totals[name] = totals.get(name, 0.0) + value / _BATCHES
            if step == 0:
                _write(picture, (batch.degraded, restored, batch.clean))
        return totals

    def _judge(self, pictures: Mapping[str, Tensor], batch: Batch) -> dict[str, float]:
        row, clean = {}, batch.clean
        for name, ours in pictures.items():
            for backbone in ("vgg", "alex"):
                metric = getattr(self._objective, backbone)
                if metric is not None:
                    row[f"{backbone}_{name}"] = metric(ours, clean).mean().item()
            row[f"psnr_{name}"] = psnr(ours, clean).mean().item()
            if batch.flow is not None and batch.valid is not None:
                clips = (batch.as_clips(ours), batch.as_clips(clean))
                error = temporal_loss(*clips, batch.flow, batch.valid)
                row[f"temporal_{name}"] = error.mean().item()
        return row

    @staticmethod
    def score(row: Mapping[str, float]) -> float:
        """Score a checkpoint, lower is better: LPIPS (VGG), else LPIPS (AlexNet), else -PSNR."""
        ours = (row.get("vgg_ours"), row.get("alex_ours"), -row["psnr_ours"])
        return next(value for value in ours if value is not None)


def _write(path: Path, columns: tuple[Tensor, ...]) -> None:
    planes = (np.vstack(from_tensor(column[:_SHOWN], np.uint8)) for column in columns)
    cv2.imwrite(str(path), np.hstack(list(planes))[..., ::-1])
