"""The named sets of references of a server: `splatmend serve --references`.

A set is prepared once. Each session gets its own guide, because a guide keeps placed references
for one stream, without a lock. The guides share pictures and thumbnails.
"""

from collections.abc import Mapping
from pathlib import Path

from splatmend.core.errors import InputError
from splatmend.core.references import Guide, References
from splatmend.core.references.reading import read_references
from splatmend.plugin.video.source import PICTURE_SUFFIXES

__all__ = ["ReferenceSets", "read_sets"]

_ONLY = "default"
"""Name of the only set of a server."""
_PAIRS = {"renders", "photos"}
_LONGEST_NAME = 64


class ReferenceSets:
    """Sets by name, and the default set for clients that name none.

    Raises:
        InputError: `default` is not a set, or a name does not fit into a hello.
    """

    def __init__(
        self, sets: Mapping[str, References] | None = None, *, default: str | None = None
    ) -> None:
        sets = sets or {}
        if default is None and set(sets) == {_ONLY}:
            default = _ONLY
        if default is not None and default not in sets:
            raise InputError(f"no set of references is called {default!r}: {_known(sets)}")
        for name in sets:
            if not (name.isprintable() and 0 < len(name) <= _LONGEST_NAME):
                raise InputError(
                    f"a set's name has 1 to {_LONGEST_NAME} printable characters, got {name!r}: "
                    f"rename its folder"
                )
        self._guides = {name: Guide(references) for name, references in sets.items()}
        self.default = default
        """Set of clients that name none; None: they have no references."""

    def __bool__(self) -> bool:
        return bool(self._guides)

    def __str__(self) -> str:
        """List the sets in words, for the start of the server."""
        each = [f"{name} ({_counted(g.references)})" for name, g in sorted(self._guides.items())]
        used = "" if self.default is None else f"; for clients that name none: {self.default}"
        return ", ".join(each) + used

    def named(self, name: str) -> tuple[str, Guide | None]:
        """Return a set's name and a guide for one session; an empty name stands for the default.

        Raises:
            InputError: no set has that name; the message lists the known ones.
        """
        name = name or self.default or ""
        if not name:
            return "", None
        if name not in self._guides:
            raise InputError(f"no references are called {name!r}: {_known(self._guides)}")
        return name, self._guides[name].twin()


def read_sets(folder: Path, *, default: str | None = None) -> ReferenceSets:
    """Read the sets of a folder.

    Pictures directly inside, or folders renders/ and photos/, are one set called "default". Else
    each folder inside is a set of its name.

    Raises:
        InputError: the folder is missing or empty, or a set cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give one with pictures or folders of pictures")
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    folders = [path for path in entries if path.is_dir()]
    pictures = [path for path in entries if path.suffix.lower() in PICTURE_SUFFIXES]
    if {path.name for path in folders} >= _PAIRS or (pictures and not folders):
        return ReferenceSets({_ONLY: read_references(folder)}, default=default)
    if pictures:
        raise InputError(
            f"{folder} has pictures and folders: move the pictures into a folder of their own"
        )
    if not folders:
        raise InputError(f"{folder} has neither pictures nor folders of them")
    return ReferenceSets({path.name: read_references(path) for path in folders}, default=default)


def _counted(references: References) -> str:
    count = len(references)
    kind = "picture" if references.kind == "pictures" else "key pair"
    return f"{count} {kind}{'' if count == 1 else 's'}"


def _known(sets: Mapping[str, object]) -> str:
    """List the known names in words; only the first ones if there are many."""
    if not sets:
        return "this server has none; start it with --references"
    names, most = sorted(sets), 8
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"there are {', '.join(names[:most])}{more}"
