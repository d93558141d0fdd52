"""Key pairs: one view as a light avatar and its full one draw it.

`pose_choice` picks the poses at which a pair helps most. `baking` renders and writes the pairs; it
is `splatmend references`.
"""

from splatmend.training.key_pairs.pose_choice import choose_keys

__all__ = ["choose_keys"]
