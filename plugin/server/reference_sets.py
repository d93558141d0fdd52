"""The named sets of references of a server: `splatmend serve --references`.

A set is prepared once. Each session gets a guide of its own, because a guide keeps placed
references for the frames of one stream, without a lock; pictures and thumbnails are shared.
"""

from collections.abc import Mapping
from pathlib import Path

from splatmend.core.errors import InputError
from splatmend.core.references import Guide, References
from splatmend.core.references.reading import read_references
from splatmend.plugin.video.source import PICTURE_SUFFIXES

__all__ = ["ReferenceSets", "read_sets"]

_ONLY = "default"
"""Name of a set that needs none."""
_PAIRS = {"renders", "photos"}
_LONGEST_NAME = 64


class ReferenceSets:
    """Sets by name, and the one of clients that name none.

    Raises:
        InputError: `default` is no set, or a name cannot be said in a hello.
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
        """Used by all who name none; None: they go without."""

    def __bool__(self) -> bool:
        return bool(self._guides)

    def __str__(self) -> str:
        """What there is, in words, for whoever starts the server."""
        each = [f"{name} ({_counted(g.references)})" for name, g in sorted(self._guides.items())]
        used = "" if self.default is None else f"; without a name {self.default} is used"
        return ", ".join(each) + used

    def named(self, name: str) -> tuple[str, Guide | None]:
        """A set's name and a guide for one session; an empty name stands for the default.

        Raises:
            InputError: no set of that name; the message lists those that there are.
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
        InputError: no such folder, nothing in it, or a set that cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: give one with pictures, or with folders of them")
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
    return f"{count} {references.kind if count > 1 else references.kind.removesuffix('s')}"


def _known(sets: Mapping[str, object]) -> str:
    """The names there are, in words; the first ones if there are many."""
    if not sets:
        return "this server has none; start it with --references"
    names, most = sorted(sets), 8
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"there are {', '.join(names[:most])}{more}"
