"""Which paths a request may name: all of a person's own machine, of another's only the allowed folders."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import shutil
import string
import subprocess
import sys
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from lora_train.errors import Mistake
from lora_train.knobs import general
from lora_train.values import several, shown, unwrapped

if TYPE_CHECKING:
    from lora_train.host import Folders
    from lora_train.knobs import Setting

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".jxl", ".gif", ".tif", ".tiff")
SHOWN = (".png", ".jpg", ".jpeg", ".webp")  # what `/file` hands out
LINKS = "follow_links"  # a setting that leads out of a folder


@dataclasses.dataclass(frozen=True)
class Guard:
    """Paths for one request."""

    folders: Folders
    remote: bool = False  # the WebUI listens to other machines

    @property
    def allowed(self) -> tuple[pathlib.Path, ...]:
        """What lies below these may be read; () for everything."""
        f = self.folders
        return (*f.pictures, f.loras, f.desk, *f.models) if self.remote or f.pictures else ()

    @property
    def writable(self) -> tuple[pathlib.Path, ...]:
        f = self.folders  # pictures: what is done to them there can be undone
        return (f.loras, f.desk, *f.pictures) if self.allowed else ()

    def path(self, text: object, what: str = "path", *, written: bool = False) -> pathlib.Path:
        """The path that is meant, with links and `..` followed.

        Raises:
            Mistake: it lies outside the allowed folders.
        """
        path = pathlib.Path(cleaned(text, what)).expanduser()
        try:
            real = path.resolve()
        except (OSError, RuntimeError, ValueError):  # a circle of links, a NUL
            raise Mistake(f"{what} = {shown(str(text))}: expected a path that can be followed") from None
        allowed = self.writable if written else self.allowed
        linked = not written and self._model(path)
        if allowed and not linked and not any(_below(real, folder) for folder in allowed):
            listed = ", ".join(map(str, dict.fromkeys(allowed)))
            raise Mistake(
                f"{what} = {shown(str(text))}: expected a path below {listed}, because this page can be "
                "reached from other machines; the WebUI takes further folders with --gradio-allowed-path"
            )
        return real

    def _model(self, path: pathlib.Path) -> bool:
        """A checkpoint that its owner linked to from another disk."""
        plain = path.is_absolute() and ".." not in path.parts
        return (
            plain and path.is_file() and any(path.is_relative_to(m.absolute()) for m in self.folders.models)
        )

    def values(
        self, values: Mapping[str, object], known: Mapping[str, Setting] | None = None
    ) -> dict[str, object]:
        """A job's values, or those of something with other settings; their paths cleaned and allowed.

        Raises:
            Mistake: all that are not, one a line.
        """
        found, complaints = dict(values), []
        if self.allowed and values.get(LINKS) not in (None, "", False):
            complaints.append(
                f"{LINKS} = {shown(str(values[LINKS]))}: expected false, because this page can be reached "
                "from other machines"
            )
        files = _paths() if known is None else _files(known.values())
        for name, value in values.items():
            setting = files.get(general(name))
            if setting is None or value in (None, "", []):
                continue
            if unwrapped(setting.type)[0] is str and str(value).startswith("data:"):
                continue
            inner = unwrapped(setting.type)[0]
            listed = typing.get_origin(inner) is tuple
            try:
                texts = [cleaned(one, name) for one in (several(inner, value) if listed else [value])]
                for text in texts:
                    self.path(text, name, written=_written(setting))
                known = [str(pathlib.Path(text).expanduser()) for text in texts]
                found[name] = known if listed else known[0]
            except Mistake as e:
                complaints.append(str(e))
        if complaints:
            raise Mistake("\n".join(complaints))
        return found

    def browse(self, text: str) -> dict[str, object]:
        """A folder, the folders in it, and how many pictures it has; without a path where to begin."""
        if not text.strip():
            begin = [str(p) for p in dict.fromkeys(self.allowed or _places(self.folders)) if p.is_dir()]
            return {"path": "", "parent": None, "folders": begin, "pictures": 0}
        folder = self.path(text)
        try:
            inside = sorted(os.scandir(folder), key=lambda e: e.name.lower())
        except NotADirectoryError:
            raise Mistake(f"path = {shown(text)}: expected a folder; this is a file") from None
        except FileNotFoundError:
            raise Mistake(f"path = {shown(text)}: expected a folder; there is none of this name") from None
        except OSError as e:
            raise Mistake(f"path = {shown(text)}: cannot be read ({e.strerror}); check its rights") from None
        folders = [e.path for e in inside if not e.name.startswith(".") and _is_folder(e)]
        pictures = sum(e.name.lower().endswith(PICTURES) for e in inside)
        upper = folder.parent
        outside = self.allowed and not any(_below(upper, a) for a in self.allowed)
        parent = "" if outside or upper == folder else str(upper)
        return {"path": str(folder), "parent": parent, "folders": folders, "pictures": pictures}

    def open(self, text: str) -> dict[str, object]:
        """Shows a folder, or the one a file lies in, in the system's file manager.

        Raises:
            Mistake: asked from another machine, or there is no such folder or no such program.
        """
        if self.remote:
            raise Mistake("folders open only where the WebUI runs; copy the path")
        path = self.path(text)
        folder = path if path.is_dir() else path.parent
        if not folder.is_dir():
            raise Mistake(f"path = {shown(text)}: expected a folder; there is none")
        if sys.platform == "win32":
            os.startfile(folder)
            return {"path": str(folder)}
        program = shutil.which("open" if sys.platform == "darwin" else "xdg-open")
        if program is None:
            raise Mistake("there is no program here that shows folders; copy the path")
        subprocess.Popen([program, str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return {"path": str(folder)}

    def picture(self, text: str, endings: Sequence[str] = SHOWN) -> pathlib.Path:
        """A picture that the page may show.

        Args:
            endings: of files that are; of others a copy is made that a browser can read.
        """
        path = self.path(text)
        if path.suffix.lower() not in endings:
            raise Mistake(f"path = {shown(text)}: expected a picture, {', '.join(endings)}")
        if not path.is_file():
            raise Mistake(f"path = {shown(text)}: expected a file; there is none")
        return path


def cleaned(text: object, what: str = "path") -> str:
    """A path as people paste it: Windows' "Copy as path" puts it in quotes."""
    if not isinstance(text, str | pathlib.Path):
        raise Mistake(f"{what} = {shown(text)}: expected a path")
    words = str(text).strip()
    if len(words) > 1 and words[0] == words[-1] and words[0] in "\"'":
        words = words[1:-1].strip()
    return words


def _below(path: pathlib.Path, folder: pathlib.Path) -> bool:
    return path.is_relative_to(folder.expanduser().resolve())


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _places(folders: Folders) -> list[pathlib.Path]:
    """Where looking for pictures begins on a person's own machine."""
    drives = [pathlib.Path(f"{letter}:\\") for letter in string.ascii_uppercase] if os.name == "nt" else []
    home = pathlib.Path.home()
    return [home / "Pictures", home, folders.loras, *drives, *([] if drives else [pathlib.Path("/")])]


@functools.cache
def _paths() -> dict[str, Setting]:
    """The settings that name files."""
    from lora_train.job import declared
    from lora_train.knobs import settings
    from lora_train.plots.plan import Plan

    return _files((*declared(), *settings(Plan)))


def _files(every: Iterable[Setting]) -> dict[str, Setting]:
    files = (
        s
        for s in every
        if unwrapped(s.type)[0] in (pathlib.Path, tuple[pathlib.Path, ...]) or s.place and not s.choices
    )
    return {s.path: s for s in files}


def _written(setting: Setting) -> bool:
    """Whether a run makes files there: it does in the folders among its output, and draws the class."""
    from lora_train.tools.tool import OUTPUTS

    own = setting.path.startswith("output.") and setting.name.endswith("_dir")
    return own or setting.name == "class_data_dir" or setting.path in OUTPUTS
