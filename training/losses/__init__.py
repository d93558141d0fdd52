"""The training loss: its terms and their weighted sum.

`objective` sums the terms. `terms`, `dists`, `identity` and `shift_mean` are plain losses.
`adversarial` and its `discriminator` train a second network.
"""

from splatmend.training.losses.dists import DistsLoss, find_dists_weights
from splatmend.training.losses.identity import IdentityLoss
from splatmend.training.losses.shift_mean import shift_mean_loss
from splatmend.training.losses.terms import gram_distance, log_mse

__all__ = [
    "DistsLoss",
    "IdentityLoss",
    "find_dists_weights",
    "gram_distance",
    "log_mse",
    "shift_mean_loss",
]
