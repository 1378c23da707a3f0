"""Pictures from a lent model with LoRA files on it."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from lora_train.adapters.file import load, network_of
from lora_train.adapters.network import Network
from lora_train.adapters.word import bundled
from lora_train.emphasis import Named, loras
from lora_train.errors import Mistake
from lora_train.knobs import nearest
from lora_train.plots.grid import sheet
from lora_train.run.embeddings import worn

if TYPE_CHECKING:
    from PIL import Image

    from lora_train.adapters.layer import Layer
    from lora_train.host import Lent
    from lora_train.prompts import Prompt

ENLARGED = 128  # pixels; cells of a smaller side are blown up to about this
Words = dict[str, dict[str, torch.Tensor]]  # word -> part -> vectors
TOLD = 20  # names that are listed where one is not found


class Worn:
    """LoRA files, read once, that a lent model can wear at any strength.

    Raises:
        Mistake: a file is not a LoRA of this model.
    """

    def __init__(self, lent: Lent, files: Sequence[pathlib.Path]):
        self.lent, layers = lent, lent.layers()
        self.names = [file.stem for file in files]
        self.networks: list[Network] = []
        self.words: list[Words] = []  # that they bring along
        for file in files:
            network, words = _worn(file, layers)
            self.networks.append(network)
            self.words.append(words)

    @contextlib.contextmanager
    def at(self, strengths: Sequence[float]) -> Iterator[dict[str, Network]]:
        """At strength 0 a file is not on at all, so the picture is the bare model's to the bit.

        Yields:
            All of them, by name.
        """
        with contextlib.ExitStack() as on:
            for network, words, strength in zip(self.networks, self.words, strengths, strict=True):
                network.strength = strength
                if strength:
                    on.enter_context(network.attached())
                    on.enter_context(worn(self.lent, words))
            yield dict(zip(self.names, self.networks, strict=True))


def _worn(file: pathlib.Path, layers: Sequence[Layer]) -> tuple[Network, Words]:
    tensors, _ = load(file)
    with torch.random.fork_rng(devices=[]):  # adapters draw numbers before they hold what is read
        return network_of(tensors, layers, name=str(file)).requires_grad_(False), bundled(tensors)


class Wardrobe:
    """LoRAs that prompts name, found in folders by the names of their files, and worn for one picture."""

    def __init__(self, lent: Lent, folders: Sequence[pathlib.Path]):
        self.lent, self.folders = lent, folders
        self.networks: dict[str, Network] = {}
        self.words: dict[str, Words] = {}  # of the same files

    def read(self, prompts: Sequence[Prompt], worn: Sequence[str] = ()) -> None:
        """Load what prompts name, so that nothing is missed later.

        Args:
            worn: names of what will be on anyway.

        Raises:
            Mistake: no such file, or not a LoRA of this model.
        """
        wanted = [named.name for prompt in prompts for named in loras(prompt.prompt)[1]]
        missing = [name for name in dict.fromkeys(wanted) if name not in (*self.networks, *worn)]
        if not missing:
            return
        files = self._files()
        if lost := [self._lost(name, [*files, *worn]) for name in missing if name not in files]:
            raise Mistake("\n".join(lost))
        layers = self.lent.layers()
        for name in missing:
            self.networks[name], self.words[name] = _worn(files[name], layers)

    def sample(self, prompt: Prompt, worn: Mapping[str, Network] | None = None) -> Image.Image:
        """The picture of a prompt, with the LoRAs it names.

        Args:
            worn: what is on already, by name; for one that the prompt names, its strengths there multiply
                what it is worn at.
        """
        worn = worn or {}
        self.read([prompt], list(worn))
        text, named = loras(prompt.prompt)
        with contextlib.ExitStack() as on:
            for name, (te, unet) in _summed(named).items():
                on.enter_context(self._on(worn.get(name), name, te, unet))
            return self.lent.sample(dataclasses.replace(prompt, prompt=text))

    @contextlib.contextmanager
    def _on(self, there: Network | None, name: str, te: float, unet: float) -> Iterator[None]:
        """there: the one of that name that is on already."""
        if there is not None:
            before = there.strength
            there.weigh(te * before, unet * before)
            try:
                yield
            finally:
                there.strength = before
        elif te or unet:
            other = self.networks[name]
            other.weigh(te, unet)
            with other.attached(), worn(self.lent, self.words[name]):
                yield
        else:
            yield

    def _files(self) -> dict[str, pathlib.Path]:
        """Name -> file; of those with one name, that which lies least deep."""
        found = [path for folder in self.folders for path in folder.rglob("*.safetensors") if path.is_file()]
        return {path.stem: path for path in sorted(found, key=lambda path: (-len(path.parts), path))}

    def _lost(self, name: str, there: Sequence[str]) -> str:
        folders = ", ".join(map(str, dict.fromkeys(self.folders)))
        known = sorted(set(there))
        more = f" and {len(known) - TOLD} more" if len(known) > TOLD else ""
        listed = f"; there: {', '.join(known[:TOLD])}{more}" if known else ", nor any other LoRA"
        return f"<lora:{name}>: no {name}.safetensors in {folders}{nearest(name, known)}{listed}"


def noted(image: Image.Image, prompt: Prompt, name: str) -> Image.Image:
    """The picture, whose infotext, where the host wrote one, names the LoRA that was on: with the file it is
    drawn again so."""
    text, named = loras(prompt.prompt)
    written = image.info.get("parameters", "")
    if text and written.startswith(text):
        tag = "" if any(lora.name == name for lora in named) else f"<lora:{name}:1>"
        image.info["parameters"] = prompt.prompt + tag + written[len(text) :]
    return image


def _summed(named: Sequence[Named]) -> dict[str, tuple[float, float]]:
    """Strengths of one that is named twice add up."""
    te, unet = collections.Counter(), collections.Counter()
    for lora in named:
        te[lora.name] += lora.te
        unet[lora.name] += lora.unet
    return {name: (te[name], unet[name]) for name in te}


@dataclasses.dataclass(frozen=True)
class Column:
    """Of a sheet: a file at a strength."""

    label: str
    file: pathlib.Path
    strength: float


def columns(  # noqa: PLR0913 (what a sheet is of, and who looks on)
    lent: Lent,
    wanted: Sequence[Column],
    prompts: Sequence[Prompt],
    folders: Sequence[pathlib.Path] = (),
    *,
    title: str = "",
    told: Callable[[int, int], None] = lambda done, of: None,
) -> Image.Image:
    """One row a prompt; the same seed along a row.

    Args:
        folders: where LoRAs lie that prompts name.
        told: before each picture, how many are done and of how many; may raise to break off.
    """
    files = [*dict.fromkeys(column.file for column in wanted)]
    worn, wardrobe = Worn(lent, files), Wardrobe(lent, folders)
    wardrobe.read(prompts, worn.names)
    prompts = [p if p.seed is not None else dataclasses.replace(p, seed=1) for p in prompts]

    def cell(row: int, column: int) -> Image.Image:
        told(row * len(wanted) + column, len(wanted) * len(prompts))
        one = wanted[column]
        with worn.at([one.strength if file == one.file else 0.0 for file in files]) as on:
            return wardrobe.sample(prompts[row], on)

    side = min(min(p.width, p.height) for p in prompts)
    labels = [column.label for column in wanted]
    return sheet([p.prompt for p in prompts], labels, cell, title=title, enlarge=max(1, ENLARGED // side))


def strengths(file: pathlib.Path, values: Sequence[float]) -> list[Column]:
    """A column for each."""
    return [Column(f"strength {value:g}", file, value) for value in values]
