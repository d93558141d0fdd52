"""SMP/1, the protocol between clients and the frame server (docs/protocol.md).

`codec` encodes `messages` and `framing` carries them; `frames` turns planes into pictures.
`zmq_sockets` and `curve_keys` serve ZeroMQ; this module does not import them.
"""

from splatmend.plugin.protocol.codec import encode, parse
from splatmend.plugin.protocol.frames import from_result, to_frame, to_planes, to_result
from splatmend.plugin.protocol.framing import Buffer, Limits, ProtocolError, join, split
from splatmend.plugin.protocol.messages import (
    Bye,
    Camera,
    Drop,
    ErrorReply,
    FrameRequest,
    Hello,
    Message,
    Ping,
    Pong,
    ReferencePicture,
    Result,
    Stats,
    UseReferences,
    Welcome,
)
from splatmend.plugin.protocol.plane_formats import Plane, PlaneMemo
from splatmend.plugin.protocol.upload_limits import UploadLimits

__all__ = [
    "Buffer",
    "Bye",
    "Camera",
    "Drop",
    "ErrorReply",
    "FrameRequest",
    "Hello",
    "Limits",
    "Message",
    "Ping",
    "Plane",
    "PlaneMemo",
    "Pong",
    "ProtocolError",
    "ReferencePicture",
    "Result",
    "Stats",
    "UploadLimits",
    "UseReferences",
    "Welcome",
    "encode",
    "from_result",
    "join",
    "parse",
    "split",
    "to_frame",
    "to_planes",
    "to_result",
]
