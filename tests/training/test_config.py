"""Settings of a run that cannot work are refused."""

from pathlib import Path

import pytest

from splatmend.core import InputError
from splatmend.training import TrainConfig


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"faces": ()}, "nothing to train on"),
        ({"pairs": ("a:b",)}, "on both together with --pool"),
        ({"pairs": ("a:b",), "pool": 5, "pair_share": 1.5}, r"pair_share must lie in \[0, 1\]"),
        ({"pairs": ("a:b",), "pool": 5, "undamaged": -0.1}, r"undamaged must lie in \[0, 1\]"),
        ({"pool": 5, "splat_targets": 45}, r"splat_targets must lie in \[0, 1\], got 45"),
        ({"faces": (), "pairs": ("a:b",), "pool": 5}, "--pool needs --faces"),
        (
            {"temporal": True, "pool": 5, "pairs": ("a:b",)},
            "are for single frames",
        ),
        ({"temporal": True, "pool": 5, "undamaged": 0.1}, "are for single frames"),
        ({"temporal": True, "pool": 5, "still_share": 2}, r"still_share must lie in \[0, 1\]"),
        ({"pool": 5, "still_share": 0.5}, "--still-share needs --temporal and --pool"),
        ({"renew": 0}, "renew, validate_every and save_every must be at least 1"),
        ({"holdout": 1}, "holdout must be 0 or at least 2"),
        ({"crop": 150}, "crop must be a multiple of 32"),
        ({"crop": 32}, r"at least vgg_side \(64\)"),
        ({"max_steps": 100, "warmup_steps": 100}, "warmup_steps must lie between"),
        ({"base": "turbo", "rank": 4}, "--rank is compact's"),
        ({"accumulate": 0}, "must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(changes: dict, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        TrainConfig(**({"faces": (Path("a"),)} | changes))
