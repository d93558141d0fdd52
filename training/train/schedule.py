"""The learning rate over a run."""

__all__ = ["learning_rate_share"]


def learning_rate_share(step: int, warmup: int, total: int) -> float:
    """Give the share of the highest rate: a linear rise over `warmup` updates, then a linear fall.

    It is 0 at `total`.
    """
    return min((step + 1) / warmup, (total - step) / (total - warmup))
