"""The scripts that the gateway serves to web pages, made from `plugin/client/javascript`.

The files there are CommonJS modules, which Node can load. A page gets them as one classic script.
Each module is in its own function there, so only the wanted name is global.
"""

import re
from functools import cache
from importlib.resources import files

__all__ = ["script"]

_SCRIPTS = {
    "/splatmend.js": "globalThis.Splatmend = require('./splatmend.js');",
    "/attach.js": "require('./attach.js');",
}
_REQUIRED = re.compile(r'require\("\./(\w+\.js)"\)')


@cache
def script(path: str) -> bytes | None:
    """Return the script that a page gets under `path`, or None."""
    last = _SCRIPTS.get(path)
    if last is None:
        return None
    names: list[str] = []
    _collect(path.removeprefix("/"), names)
    modules = [f"define('./{name}', (module, require) => {{\n{_text(name)}}});\n" for name in names]
    return "".join((_HEAD, *modules, last, "\n})();\n")).encode()


_HEAD = """(() => {
const modules = {};
const require = (name) => modules[name];
const define = (name, body) => {
  const module = { exports: {} };
  body(module, require);
  modules[name] = module.exports;
};
"""


def _collect(name: str, names: list[str]) -> None:
    """Add a module to `names`, after the modules that it needs."""
    for needed in _REQUIRED.findall(_text(name)):
        _collect(needed, names)
    if name not in names:
        names.append(name)


def _text(name: str) -> str:
    return (files("splatmend.plugin.client") / "javascript" / name).read_text(encoding="utf-8")
