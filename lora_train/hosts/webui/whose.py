"""Which of a prompt's LoRAs act where: in a region of the picture, in one of the prompts with AND between."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from lora_train.emphasis import KINDS, TAG, named_of, placed
from lora_train.hosts.webui.split import Split

AND = re.compile(r"\bAND\b")


@dataclasses.dataclass(frozen=True)
class Tag:
    """A LoRA that a prompt names."""

    name: str
    nth: int  # of those of its name
    prompt: int  # of those with AND between, the one it stands in
    te: float
    unet: float


Worn = frozenset[Tag]  # those that act


@dataclasses.dataclass(frozen=True)
class Said:
    """What a whole prompt names."""

    tags: tuple[Tag, ...] = ()
    prompts: int = 1  # with AND between

    @classmethod
    def read(cls, text: str) -> Said:
        """Raises: ValueError: a tag that cannot be read."""
        found: list[Tag] = []
        kinds = dict.fromkeys(tag[1] for tag in TAG.finditer(text) if tag[1] in KINDS)
        for kind in kinds:  # the WebUI loads those of one spelling after those of the other
            for tag in TAG.finditer(text):
                if tag[1] != kind:
                    continue
                named = named_of(tag[0], placed(tag[2].split(":")))
                nth = sum(one.name == named.name for one in found)
                before = AND.findall(TAG.sub("", text[: tag.start()]))
                found.append(Tag(named.name, nth, len(before), named.te, named.unet))
        return cls(tuple(found), len(AND.findall(TAG.sub("", text))) + 1)

    @property
    def names(self) -> list[str]:
        return [*dict.fromkeys(tag.name for tag in self.tags)]


@dataclasses.dataclass(frozen=True)
class Wish:
    """What a person asked for."""

    split: Split | None = None
    owners: tuple[tuple[str, ...], ...] = ()  # names of LoRAs for each region; empty: one each, in order
    by_prompt: bool = False  # a LoRA acts on that of the prompts with AND between that names it
    bare: bool = False  # none acts on the negative prompt

    @classmethod
    def read(cls, split: str = "", owners: str = "", by_prompt: bool = False, bare: bool = False) -> Wish:
        """Args:
            split: as `Split.read` knows it; empty: the whole picture.
            owners: names with "," between, regions with ";".

        Raises:
            ValueError: what cannot be read.
        """
        parts = Split.read(split) if split else None
        named = tuple(tuple(filter(None, map(str.strip, part.split(",")))) for part in owners.split(";"))
        if parts is not None and any(named) and len(named) > len(parts):
            raise ValueError(f"LoRAs = {owners}: expected one for each of {len(parts)} regions at most")
        return cls(parts, named if parts is not None and any(named) else (), by_prompt, bare)

    @property
    def empty(self) -> bool:
        return self.split is None and not self.by_prompt and not self.bare

    def acting(self, said: Said, region: int, prompt: int | None) -> Worn:
        """Args:
        region: 0 is nobody's.
        prompt: None: the negative one.
        """
        owned, apart = self._owned(said.names), self.by_prompt and said.prompts > 1
        if prompt is None and (self.bare or apart):
            return frozenset()
        return frozenset(
            tag
            for tag in said.tags
            if region in owned.get(tag.name, (region,)) and (not apart or tag.prompt == prompt)
        )

    def _owned(self, names: Sequence[str]) -> dict[str, set[int]]:
        """A LoRA's regions. Those that have none act everywhere."""
        found: dict[str, set[int]] = {}
        if self.split is not None:
            in_order = [(name,) for name in names[: len(self.split)]]
            for region, owners in enumerate(self.owners or in_order, 1):
                for name in owners:
                    found.setdefault(name, set()).add(region)
        return found

    def lost(self, said: Said) -> list[str]:
        """Names that the prompt has not."""
        return sorted({name for part in self.owners for name in part} - {*said.names})
