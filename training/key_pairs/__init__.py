"""Key pairs: one view of an avatar, drawn by its light and its full version.

`pose_choice` picks the poses at which a pair helps most. `baking` renders and writes the pairs; it
is `splatmend references`.
"""

from splatmend.training.key_pairs.pose_choice import choose_keys

__all__ = ["choose_keys"]
