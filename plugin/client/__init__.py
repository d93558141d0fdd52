"""Clients of the frame server: in Python here, in other languages in javascript/ and csharp/.

`client` is for render loops and `wrapping` for render functions. `connection` owns the socket,
`requests` the frames on their way, `breaker` the retries, `references` the uploads.
"""

from splatmend.plugin.client.client import Client, ClientOptions
from splatmend.plugin.client.references import GivenReferences
from splatmend.plugin.client.wrapping import Wrapped, wrap

__all__ = ["Client", "ClientOptions", "GivenReferences", "Wrapped", "wrap"]
