"""Files and live frames in, restored ones out. Imports core and temporal, never training.

`cli` is the command `splatmend`. Names are imported when they are asked for, so that the command
line answers before torch is loaded.

video/     video files, from decoding to muxing; `restore-video`
protocol/  SMP/1 (docs/protocol.md): messages, frames, sockets, keys
server/    the frame server, `splatmend serve`
client/    clients in Python, javascript/ and csharp/
attach/    renderers and viewers that need not be changed
tools/     `splatmend measure`, `bench` and `convert`
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splatmend.plugin.video.comparison import CompareMode, compare
    from splatmend.plugin.video.encoding import Encoding, EncodingOptions, plan_encoding
    from splatmend.plugin.video.reader import ClipReader, Damage
    from splatmend.plugin.video.reference_options import read_clip_references
    from splatmend.plugin.video.restore import VideoOptions, VideoSummary, restore_video
    from splatmend.plugin.video.source import (
        CLIP_SUFFIXES,
        PICTURE_SUFFIXES,
        Clip,
        clips_in,
        open_clip,
    )

__all__ = [
    "CLIP_SUFFIXES",
    "PICTURE_SUFFIXES",
    "Clip",
    "ClipReader",
    "CompareMode",
    "Damage",
    "Encoding",
    "EncodingOptions",
    "VideoOptions",
    "VideoSummary",
    "clips_in",
    "compare",
    "open_clip",
    "plan_encoding",
    "read_clip_references",
    "restore_video",
]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from splatmend.plugin import video

    value = globals()[name] = getattr(video, name)
    return value


def __dir__() -> list[str]:
    """List the public names too, whether they are imported yet or not."""
    return sorted({*globals(), *__all__})
