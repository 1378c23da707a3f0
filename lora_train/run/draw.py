"""Pictures from a lent model with LoRA files on it."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from lora_train.adapters.file import load, network_of
from lora_train.adapters.network import Network
from lora_train.adapters.word import bundled
from lora_train.emphasis import Named, loras
from lora_train.errors import Mistake
from lora_train.knobs import nearest
from lora_train.run.embeddings import worn
from lora_train.spelling import Book

if TYPE_CHECKING:
    from PIL import Image

    from lora_train.adapters.layer import Layer
    from lora_train.blocks import BlockWeights
    from lora_train.host import Lent
    from lora_train.prompts import Prompt

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
    """LoRAs that prompts name, found in folders by the names of their files, and worn for one picture.

    A person's presets of block weights, `lbwpresets.txt` and `elempresets.txt`, lie in these folders too.
    """

    def __init__(self, lent: Lent, folders: Sequence[pathlib.Path]):
        self.lent, self.folders = lent, folders
        self.networks: dict[str, Network] = {}
        self.words: dict[str, Words] = {}  # of the same files

    def read(self, prompts: Sequence[Prompt], worn: Sequence[str] = ()) -> None:
        """Load what prompts name, so that nothing is missed later.

        Args:
            worn: names of what will be on anyway.

        Raises:
            Mistake: no such file, or not a LoRA of this model, or block weights that cannot be read.
        """
        wanted = [named for prompt in prompts for named in loras(prompt.prompt)[1]]
        book, lost = Book.read(self.folders), []
        for named in dict.fromkeys(wanted):
            try:
                weights_of(named, book, None)
            except ValueError as e:
                lost.append(f"<lora:{named.name}>: {e}")
        missing = dict.fromkeys(one.name for one in wanted if one.name not in (*self.networks, *worn))
        files = self._files() if missing else {}
        if lost := [self._lost(name, [*files, *worn]) for name in missing if name not in files] + lost:
            raise Mistake("\n".join(lost))
        layers = self.lent.layers() if missing else []
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
        if prompt.seed is None and any(one.lbw for one in named):  # what is drawn with it is drawn of a seed
            prompt = dataclasses.replace(prompt, seed=random.SystemRandom().randrange(2**32))
        book, weighed = Book.read(self.folders), []
        with contextlib.ExitStack() as on:
            for name in dict.fromkeys(one.name for one in named):
                tags = [(one, weights_of(one, book, prompt.seed)) for one in named if one.name == name]
                weighed.append(on.enter_context(self._on(worn.get(name), name, tags)))
            bare = dataclasses.replace(prompt, prompt=text)
            if not any(one.timed for one in named):
                return self.lent.sample(bare)
            return self.lent.sample(bare, lambda step: [one.at(step) for one in weighed])

    @contextlib.contextmanager
    def _on(self, there: Network | None, name: str, tags: Sequence[Tag]) -> Iterator[Weighed]:
        """there: the one of that name that is on already."""
        own = self.networks[name] if there is None else there
        before = own.strengths
        weighed = Weighed(own, tags, dict.fromkeys(before, 1.0) if there is None else before)
        with contextlib.ExitStack() as on:
            if there is None and any(one.te or one.unet for one, _ in tags):
                on.enter_context(own.attached())
                on.enter_context(worn(self.lent, self.words[name]))
            try:
                weighed.at(0)
                yield weighed
            finally:
                own.strengths = before

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


Tag = tuple[Named, "BlockWeights | None"]


def weights_of(named: Named, book: Book, seed: int | None) -> BlockWeights | None:
    """Of its blocks, where it says any; random ones are drawn of the picture's seed.

    Raises:
        ValueError: they cannot be read.
    """
    if not (named.lbw or named.lbwe):
        return None
    draw = random.Random(seed)  # noqa: S311 (nobody's secret)
    return book.weights(named.lbw or "ALL", named.lbwe, x=named.x, draw=draw)


class Weighed:
    """A network that a prompt names, layer by layer; strengths of one that is named twice add up.

    Args:
        times: what the prompt's strengths multiply.
    """

    def __init__(self, network: Network, tags: Sequence[Tag], times: Mapping[str, float]):
        self.network, self.tags, self.times = network, tags, times
        self.now: tuple[bool, ...] | None = None

    def at(self, step: int) -> None:
        """Be as in this step, as `Named.acts` counts them."""
        now = tuple(named.acts(step) for named, _ in self.tags)
        if now == self.now:
            return
        self.now, sums = now, dict.fromkeys(self.times, 0.0)
        for (named, blocks), acts in zip(self.tags, now, strict=True):
            self.network.weigh(named.te, named.unet * acts, blocks)
            sums = {key: sums[key] + more for key, more in self.network.strengths.items()}
        self.network.strengths = {key: sums[key] * self.times[key] for key in sums}
