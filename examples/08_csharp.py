"""A renderer in C# whose frames are restored over TCP: this server, and 08_csharp/Program.cs.

    python examples/08_csharp.py                    compiles the program with Mono and runs it

plugin/client/csharp/Splatmend.cs is the whole client; see docs/clients.md. Install Mono by
apt-get install --no-install-recommends mono-mcs mono-runtime.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from splatmend.core import load_restorer
from splatmend.plugin.server import GatewayOptions, Server, ServerOptions, engine_of

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (ROOT / "plugin/client/csharp/Splatmend.cs", ROOT / "examples/08_csharp/Program.cs")

if not shutil.which("mcs"):
    sys.exit("the C# compiler is not installed: mcs, of mono-mcs")
options = ServerOptions(
    urls=("tcp://127.0.0.1:0",), gateway=GatewayOptions(tcp="127.0.0.1:0")
)  # like `splatmend serve --tcp 127.0.0.1:7879`
with Server([engine_of(load_restorer("compact"))], options) as server:
    assert server.gateway is not None
    port = server.gateway.addresses["tcp"].split(":")[1]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "Program.exe"
        subprocess.run(["mcs", f"-out:{program}", *map(str, SOURCES)], check=True)
        sys.exit(subprocess.run(["mono", str(program), port], check=False).returncode)
