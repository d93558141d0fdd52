"""Video files in, restored video files out: decode, restore, encode, mux.

`restore` runs all steps. `source`, `reader` and `yuv` decode; `encoding`, `segments`,
`copied_streams` and `mux` write. `reference_options` reads references. `comparison` shows input
and result together.
"""

from splatmend.plugin.video.comparison import CompareMode, compare
from splatmend.plugin.video.encoding import (
    CONTAINERS,
    Encoding,
    EncodingOptions,
    plan_encoding,
)
from splatmend.plugin.video.reader import ClipReader, Damage
from splatmend.plugin.video.reference_options import ReferenceOptions, read_clip_references
from splatmend.plugin.video.restore import VideoOptions, VideoSummary, restore_video
from splatmend.plugin.video.source import (
    CLIP_SUFFIXES,
    PICTURE_SUFFIXES,
    Clip,
    clips_in,
    open_clip,
)
from splatmend.plugin.video.times import seconds

__all__ = [
    "CLIP_SUFFIXES",
    "CONTAINERS",
    "PICTURE_SUFFIXES",
    "Clip",
    "ClipReader",
    "CompareMode",
    "Damage",
    "Encoding",
    "EncodingOptions",
    "ReferenceOptions",
    "VideoOptions",
    "VideoSummary",
    "clips_in",
    "compare",
    "open_clip",
    "plan_encoding",
    "read_clip_references",
    "restore_video",
    "seconds",
]
