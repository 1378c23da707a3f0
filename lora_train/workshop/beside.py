"""What belongs to a picture and follows it: captions, its mask, caches of it; and works that mind them."""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from PIL import Image

from lora_train.data import captions, pictures
from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.tools.tool import Told
from lora_train.values import shown
from lora_train.workshop import steps
from lora_train.workshop.image import Shot, read, written
from lora_train.workshop.journal import Draft
from lora_train.workshop.opened import Entry, Opened
from lora_train.workshop.work import Touched, Work

CAPTIONS = (".txt", ".caption", ".tags")  # endings of captions, beside the folder's own
CACHE = re.compile(r"(.+?)(_\d{4}x\d{4}_\w+)?\.npz")  # as sd-scripts names latents that it keeps
LONGEST = 255  # bytes of a file's name

Turn = Callable[[Image.Image], Image.Image]  # what is done to a picture, and to its mask


@dataclasses.dataclass(frozen=True)
class OfPictures(Work):
    """Works on pixels, one picture after the other; masks and captions follow."""

    mask_suffix: str | None = knob(
        "-masklabel", "What stands behind a picture's name in that of its mask, which is changed with it.",
        group="masks")  # fmt: skip
    conditioning_data_dir: pathlib.Path | None = knob(
        None, "Folder of masks named like their pictures, within the folder; they are changed with them.",
        group="masks", place=True)  # fmt: skip
    quality: int = knob(
        95, "Quality of JPEGs, and of other files with loss, that are written anew. Files without loss stay "
        "without.", group="output", low=1, high=100)  # fmt: skip

    quick = False

    def check(self) -> Iterable[str]:
        yield from super().check()
        suffix = self.mask_suffix
        if suffix is not None and (not suffix.strip() or re.search(r"[/\\]", suffix)):
            yield f"mask_suffix = {shown(suffix)}: expected what stands behind a name, such as -masklabel"

    def edit(self, opened: Opened, chosen: Sequence[Entry], draft: Draft, told: Told) -> Iterator[Touched]:
        return self.each(self.one, opened, chosen, draft, told)

    def each(
        self, act: Act, opened: Opened, chosen: Sequence[Entry], draft: Draft, told: Told
    ) -> Iterator[Touched]:
        """What `act` does to one picture, to all of them but masks."""
        beside = Beside(opened, self.mask_suffix, self.conditioning_data_dir)
        made: set[str] = set()
        for done, entry in enumerate(chosen):
            told(done, len(chosen))
            if beside.follows(entry.name):
                continue
            one = One(self.quality, opened, entry, draft, beside, made)
            try:
                touched = [*act(one)]
                one.done()
                yield from touched
            except Mistake as e:  # of one picture; the others are done
                yield Touched(entry.name, str(e).removeprefix(f"{opened.path(entry.name)}: "), left=True)
        told(len(chosen), len(chosen))

    def one(self, one: One) -> Iterator[Touched]:
        """Do it to one picture.

        Raises:
            Mistake: it cannot be done to this one, which stays as it is.
        """
        raise NotImplementedError


@dataclasses.dataclass
class One:
    """A picture that is worked on, with what belongs to it."""

    quality: int
    opened: Opened
    entry: Entry
    draft: Draft
    beside: Beside
    made: set[str]  # names of files that are written for other pictures
    written: dict[pathlib.Path, bytes] = dataclasses.field(default_factory=dict)  # for this one
    gone: list[pathlib.Path] = dataclasses.field(default_factory=list)

    @property
    def path(self) -> pathlib.Path:
        return self.opened.path(self.entry.name)

    def put(self, path: pathlib.Path, content: bytes) -> None:
        """A file is to hold this, if all goes well with this picture."""
        self.written[path] = content

    def remove(self, path: pathlib.Path) -> None:
        """A file is to go, likewise."""
        self.gone.append(path)

    def done(self) -> None:
        """All went well."""
        for path, content in self.written.items():
            self.draft.put(path, content)
        for path in self.gone:
            self.draft.remove(path)

    def same(self, path: pathlib.Path) -> bool:
        """Whether this is the picture itself, as where capitals do not count."""
        return steps.same(self.path, path)

    @property
    def dry(self) -> bool:
        """Whether nothing comes of it, so that nothing need be encoded."""
        return self.draft.home is None

    def shot(self) -> Shot:
        """Raises Mistake: the picture cannot be read, or is another one by a second name."""
        if self.path.is_symlink():
            real, folder = self.path.resolve(), self.opened.folder.resolve()
            if real.is_relative_to(folder) and real.relative_to(folder).as_posix() in self.opened.entries:
                raise Mistake(f"{self.path}: a link to another picture of the folder")
        return read(self.path)

    def copied(self, end: str) -> bool:
        """Whether it is a copy of another picture, of those that end like this; a regular expression."""
        found = re.fullmatch(f"(.+?){end}", _stem(self.entry.name))
        return bool(found) and found[1] in self.beside.stems

    def replace(self, shot: Shot, turn: Turn) -> None:
        """The picture becomes what `turn` makes of it, and its mask likewise; caches of it go."""
        masks = self.masked(shot, turn)
        if not self.dry:
            self.put(self.path, written(shot, turn(shot.image), quality=self.quality))
        for mask, content in masks:
            self.put(mask, content)
        self.outdated()

    def outdated(self) -> None:
        """Caches of the picture hold what it was."""
        for cache in self.beside.caches(self.entry.name):
            if str(cache) not in self.made:  # of two pictures that share a name but for its ending
                self.made.add(str(cache))
                self.remove(cache)

    def copy(self, shot: Shot, turn: Turn, end: str, reword: Callable[[str], str] = str) -> str | None:
        """Write what `turn` makes of it as another picture, with captions and mask; gives its name. None:
        there is one of that name already.

        Args:
            end: behind the name.
            reword: what a caption becomes.
        """
        path = self.named(end)
        if path.exists():
            return None
        self.claim(path)
        masks = self.masked(shot, turn)
        if not self.dry:
            self.put(path, written(shot, turn(shot.image), quality=self.quality))
        for caption in self.beside.captions(self.entry.name):
            self._new(path.with_suffix(caption.suffix), self.reworded(caption, reword))
        for mask, content in masks:
            behind = mask.stem[len(self.path.stem) :]
            self._new(mask.with_name(f"{path.stem}{behind}{mask.suffix}"), content)
        return path.relative_to(self.opened.folder).as_posix()

    def _new(self, path: pathlib.Path, content: bytes) -> None:
        """Raises Mistake: there is a file of this name, which belongs to something else."""
        if path.exists():
            raise Mistake(f"{path.name} is there already, and would be the copy's; rename or remove it")
        self.put(path, content)

    def rewrite(self, reword: Callable[[str], str]) -> None:
        """Its captions get other words."""
        for caption in self.beside.captions(self.entry.name):
            if str(caption) not in self.made:
                self.made.add(str(caption))
                self.put(caption, self.reworded(caption, reword))

    def away(self) -> None:
        """The picture goes, with all that belongs to it alone."""
        masks = self.beside.masks(self.entry.name)
        self.remove(self.path)
        if self.beside.alone(self.entry.name):
            for path in (*masks, *self.beside.captions(self.entry.name)):
                self.remove(path)
        self.outdated()

    def named(self, end: str) -> pathlib.Path:
        """Its name with something behind it, not longer than names may be."""
        stem, suffix = self.path.stem, f"{end}{self.path.suffix}"
        while len((stem + suffix).encode("utf-8", "surrogateescape")) > LONGEST - 15:  # a mask's is longer
            stem = stem[:-1]
        return self.path.with_name(stem + suffix)

    def claim(self, path: pathlib.Path) -> None:
        """Raises Mistake: another picture's file gets this name."""
        name = path.with_suffix("").as_posix().casefold()  # captions are named without the ending
        if name in self.made:
            raise Mistake(f"{self.path}: another picture's file gets the name {path.name}, too; rename one")
        self.made.add(name)

    def reworded(self, caption: pathlib.Path, reword: Callable[[str], str]) -> bytes:
        """A caption file with other words, in its encoding; byte for byte where they are the same."""
        content = caption.read_bytes()
        text, encoding = captions.whole(caption)
        said = reword(text)
        return content if said == text else said.encode(captions.CODECS[encoding].removesuffix("-sig"))

    def masked(self, shot: Shot, turn: Turn) -> list[tuple[pathlib.Path, bytes]]:
        """Its masks, likewise.

        Raises:
            Mistake: one is not of the picture, or of another as well.
        """
        found = []
        for mask in [] if self.dry else self.beside.masks(self.entry.name):
            if self.beside.shared(mask, self.entry.name):
                raise Mistake(f"{mask.name}, its mask, is another picture's, too; give each its own")
            own = read(mask)
            if own.size != shot.size:
                (width, height), (wide, high) = own.size, shot.size
                raise Mistake(f"{mask.name}, its mask, has {width}x{height} pixels, and the picture "
                              f"{wide}x{high}; save it at the picture's size")  # fmt: skip
            found.append((mask, written(own, turn(own.image), quality=100)))
        return found


Act = Callable[[One], Iterator[Touched]]


class Beside:
    """Which files of a folder belong to which of its pictures.

    Args:
        suffix: of masks that lie beside their pictures.
        masks: a folder of masks named like their pictures.
    """

    def __init__(self, opened: Opened, suffix: str | None, masks: pathlib.Path | None = None):
        self.opened, self.suffix = opened, suffix
        self.stems: dict[str, list[str]] = {}
        for entry in opened:
            self.stems.setdefault(_stem(entry.name), []).append(entry.name)
        self.twins = {stem: names for stem, names in self.stems.items() if len(names) > 1}
        self.beside: dict[str, list[str]] = {}  # a picture's stem -> names of its masks
        self.followers: set[str] = set()
        for stem, names in self.stems.items() if suffix else ():
            of = stem[: -len(suffix)]
            if stem.endswith(suffix) and of in self.stems:
                self.beside[of] = names
                self.followers.update(names)
        self.cached: dict[str, list[str]] = {}
        self.written: dict[str, list[str]] = {}
        for name in opened.loose:
            if found := CACHE.fullmatch(name):
                self.cached.setdefault(found[1], []).append(name)
            elif name.endswith(CAPTIONS):
                self.written.setdefault(_stem(name), []).append(name)
        self.elsewhere = self._elsewhere(masks) if masks else {}
        users = (key for n in opened.entries if masks and n not in self.followers for key in self._keys(n))
        self.users = collections.Counter(users)

    def follows(self, name: str) -> bool:
        """Whether a picture is the mask of another."""
        return name in self.followers

    def masks(self, name: str) -> list[pathlib.Path]:
        """Raises Mistake: another picture's, too."""
        stem = _stem(name)
        own = [self.opened.path(mask) for mask in self.beside.get(stem, ())]
        for key in self._keys(name):
            own += self.elsewhere.get(key, ())
        if own and stem in self.twins:
            raise Mistake(f"has the name of {' and '.join(n for n in self.twins[stem] if n != name)} but for "
                          f"the ending, and {own[0].name} would be the mask of both; rename one")  # fmt: skip
        return own

    def shared(self, mask: pathlib.Path, name: str) -> bool:
        """Whether a picture's mask is that of one in another folder, too."""
        return any(mask in self.elsewhere.get(key, ()) and self.users[key] > 1 for key in self._keys(name))

    def _keys(self, name: str) -> tuple[tuple[str, str], tuple[str, str]]:
        """Where its mask may be in the folder of masks: in one with the name of its own, or right in it."""
        file = pathlib.PurePosixPath(_stem(name)).name
        return (self.opened.path(name).parent.name, file), ("", file)

    def alone(self, name: str) -> bool:
        """Whether no other picture has this name but for the ending."""
        return _stem(name) not in self.twins

    def caches(self, name: str) -> list[pathlib.Path]:
        return [self.opened.path(cache) for cache in self.cached.get(_stem(name), ())]

    def captions(self, name: str) -> list[pathlib.Path]:
        """All of them, whatever their endings."""
        own = self.opened.entries[name].caption
        return [self.opened.path(c) for c in (*([own] if own else ()), *self.written.get(_stem(name), ()))]

    def _elsewhere(self, masks: pathlib.Path) -> dict[tuple[str, str], list[pathlib.Path]]:
        """Raises Mistake: no such folder, or not within the pictures'."""
        folder = masks if masks.is_absolute() or masks.is_dir() else self.opened.folder / masks
        folder = pathlib.Path(os.path.normpath(folder.absolute()))  # of .., which may lead out
        if not folder.is_dir():
            raise Mistake(f"conditioning_data_dir = {masks}: expected a folder of masks")
        if folder == self.opened.folder or not folder.is_relative_to(self.opened.folder):
            raise Mistake(f"conditioning_data_dir = {masks}: expected a folder within {self.opened.folder}, "
                          "for what lies outside is not changed from there; open the folder above both, with "
                          "recursive")  # fmt: skip
        lead = folder.relative_to(self.opened.folder).as_posix() + "/"
        self.followers.update(entry.name for entry in self.opened if entry.name.startswith(lead))
        found: dict[tuple[str, str], list[pathlib.Path]] = {}
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in pictures.ENDINGS and not path.name.startswith("."):
                title = "" if path.parent == folder else path.parent.name
                found.setdefault((title, path.stem.removesuffix(self.suffix or "")), []).append(path)
        return found


def _stem(name: str) -> str:
    """With its folder."""
    lead, _, file = name.rpartition("/")
    return f"{lead}/{pathlib.PurePosixPath(file).stem}" if lead else pathlib.PurePosixPath(file).stem
