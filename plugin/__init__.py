"""Files in, mended files out. This folder imports core and temporal, never training.

clip      what a source is: pictures, clock, colour tags, display matrix
yuv       decoded pictures to frames and back
reader    a clip's frames, past whatever is damaged
encode    container, encoder, pixel format and options, chosen once
segments  encoded segments on disk and their journal, for --resume
streams   sound, subtitles and all else that is copied
mux       segments and copied streams into one file
stages    the bounded queue between decode, restore and encode
compare   input and result in one picture
reference_options  references from pictures, a clip or key pairs; turns lays them as frames lie
video     restore_video: all of the above
cli       the commands restore-video and splatmend; times reads what they are given
convert   `splatmend convert`: between upstream's checkpoints and ours
measure, measure_report, plot  `splatmend measure`: how steady clips are
protocol, messages, fields, framing, planes, wire_frames  SMP/1 (docs/protocol.md)
server, sessions, scheduler, workers, shared_pass, dispatcher  the frame server
reference_sets, uploads  pictures of the person that guide its sessions
zmq_carrier, gateway, sockets  how frames reach it
serve, keys, watch, stats  `splatmend serve` and what it says of itself
client, link, inflight, breaker, client_references, wrap  the Python client, for render loops
attach/   renderers and viewers that need not be changed
clients/  JavaScript and C#; web_files makes of the former the scripts that the gateway serves
bench, ladder  `splatmend bench`: what each rung of the speed ladder brings
"""

from splatmend.plugin.clip import CLIP_SUFFIXES, PICTURE_SUFFIXES, Clip, clips_in, open_clip
from splatmend.plugin.compare import CompareMode, compare
from splatmend.plugin.encode import Encoding, EncodingOptions, plan_encoding
from splatmend.plugin.reader import ClipReader, Damage
from splatmend.plugin.reference_options import read_clip_references
from splatmend.plugin.video import VideoOptions, VideoSummary, restore_video

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
