"""The frame server: renderers send frames, restored frames come back.

`zmq_carrier` and `gateway` listen and `dispatcher` answers. `scheduler` chooses the next frame and
`workers` restore it. `command` is `splatmend serve`; `stats` and `watch` report.
"""

from splatmend.plugin.protocol.upload_limits import UploadLimits
from splatmend.plugin.server.gateway import GatewayOptions
from splatmend.plugin.server.reference_sets import ReferenceSets, read_sets
from splatmend.plugin.server.server import Server, ServerOptions
from splatmend.plugin.server.sessions import Policy
from splatmend.plugin.server.workers import Engine, engine_of

__all__ = [
    "Engine",
    "GatewayOptions",
    "Policy",
    "ReferenceSets",
    "Server",
    "ServerOptions",
    "UploadLimits",
    "engine_of",
    "read_sets",
]
