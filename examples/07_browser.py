"""A web page whose WebGL canvas is restored, by one line in the page and a server.

    python examples/07_browser.py           then open the address that it prints

The page is 07_browser.html; docs/browser.md describes other viewers. For other ports use
python examples/07_browser.py PAGE GATEWAY (0 takes a free port). Ctrl-C stops it.
"""

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

from splatmend.core import load_restorer
from splatmend.plugin.server import GatewayOptions, Server, ServerOptions, engine_of
from splatmend.temporal import Stream

page_port, gateway_port = sys.argv[1:] or ("8080", "7880")
with TemporaryDirectory() as folder:
    site = partial(SimpleHTTPRequestHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", int(page_port)), site) as pages:
        origin = f"http://127.0.0.1:{pages.server_address[1]}"
        gateway = GatewayOptions(ws=f"127.0.0.1:{gateway_port}", origins=(origin,))
        options = ServerOptions(urls=("tcp://127.0.0.1:0",), gateway=gateway)
        with Server([engine_of(load_restorer("compact"), stream=Stream)], options) as server:
            text = Path(__file__).with_suffix(".html").read_text()
            address = server.gateway.addresses["ws"]
            Path(folder, "index.html").write_text(text.replace("127.0.0.1:7880", address))
            sys.stdout.write(f"{origin}/ is restored by compact; Ctrl-C stops it\n")
            sys.stdout.flush()
            try:
                pages.serve_forever()
            except KeyboardInterrupt:
                sys.stdout.write("stopped\n")
