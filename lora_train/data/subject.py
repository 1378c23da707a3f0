"""Subject: DreamBooth's prompts for pictures of one subject and of its class (arXiv:2208.12242)."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Iterable

from lora_train.knobs import knob
from lora_train.prompts import SAMPLERS

SLOT = "[filewords]"  # stands for a picture's own caption
CONTENTS = ("auto", "description", "instance", "class", "both")


@dataclasses.dataclass(frozen=True)
class SubjectRules:
    """What is said of pictures of the subject and of pictures of its class, and how many of those there are.

    The four kinds of captions, and what becomes of them, are the Dreambooth extension's.
    """

    instance_prompt: str | None = knob(
        None, "Caption of every picture, such as: a photo of sks dog. [filewords] in it stands for the "
        "picture's own caption. Empty: the own caption alone.", group="dreambooth")  # fmt: skip
    class_prompt: str | None = knob(
        None, "Caption of pictures of the class, such as: a photo of a dog; those that lack are drawn with "
        "it. [filewords] in it stands for the caption of a picture of the subject.",
        group="dreambooth")  # fmt: skip
    instance_token: str | None = knob(
        None, "Word for the subject alone, such as sks. It is put into captions, see file_prompt_contents.",
        group="dreambooth")  # fmt: skip
    class_token: str | None = knob(
        None, "Word for what the subject is, such as dog.", group="dreambooth"
    )  # fmt: skip
    file_prompt_contents: str = knob(
        "auto", "What captions hold already. description, class: the instance token is put before the class "
        "token. instance: the class token is put behind it, and the class prompt has the class token in its "
        "place. both: nothing is put in, and the class prompt goes without the instance token. auto: told "
        "from each caption.", group="dreambooth", choices=CONTENTS)  # fmt: skip
    class_data_dir: pathlib.Path | None = knob(
        None, "Folder of the pictures of the class. Empty: the host's own for the run's name.",
        group="dreambooth", place=True)  # fmt: skip
    num_class_images: int = knob(
        0, "Pictures of the class that there are to be, of each folder of the subject; what lacks is drawn "
        "with the model before training, kept and used again. 0: none.", group="dreambooth", low=0,
        high=100_000)  # fmt: skip
    num_class_images_per: int = knob(
        0, "The same, as so many for each picture of the subject.", group="dreambooth", low=0,
        high=1000)  # fmt: skip
    class_negative_prompt: str | None = knob(
        None, "Negative prompt of pictures of the class that are drawn.", group="dreambooth"
    )
    class_guidance_scale: float = knob(
        7.5, "Guidance that they are drawn with.", group="dreambooth", low=1, high=100
    )
    class_infer_steps: int = knob(
        60, "Steps that they are drawn in.", group="dreambooth", low=1, high=1000, unit="steps"
    )
    class_sampler: str = knob(
        "ddim", "Sampler that they are drawn with.", group="dreambooth",
        choices=tuple(dict.fromkeys(SAMPLERS.values())))  # fmt: skip
    class_seed: int = knob(
        0, "Seed of the first one; each has the next.", group="dreambooth", low=0, high=2**62)  # fmt: skip

    def lacks(self) -> Iterable[str]:
        """What a folder of the subject cannot do without."""
        if self.makes_class and self.class_prompt is None:
            yield "class_prompt: expected what the class is drawn with, such as: a photo of a dog"
        if self.num_class_images and self.num_class_images_per:
            yield "num_class_images_per: expected none beside num_class_images; leave one out"
        if self.class_token and not self.instance_token:
            yield "instance_token: expected a word for the subject beside class_token, or neither"

    @property
    def makes_class(self) -> bool:
        """Whether there are to be pictures of the class."""
        return bool(self.num_class_images or self.num_class_images_per)

    @property
    def fixed_prompt(self) -> str | None:
        """The caption, where it is that of every picture."""
        return None if self.instance_prompt is None or SLOT in self.instance_prompt else self.of_subject("")

    def of_subject(self, caption: str) -> str:
        """The caption of a picture of the subject, whose own is this."""
        return self.put((self.instance_prompt or SLOT).replace(SLOT, caption))

    def put(self, text: str) -> str:
        """A text with the tokens, where it lacks them."""
        mine, kind = self.instance_token, self.class_token
        if not mine:
            return text
        if not kind:
            return text if _word(mine).search(text) else _joined(mine, text)
        contents, pair = self._contents(text), f"{mine} {kind}"
        if contents == "both":
            return text
        there = mine if contents == "instance" else kind
        if not _word(there).search(text):
            return _joined(pair, text)
        # where the two stand together already they are left as they are
        return re.sub(rf"{_word(pair).pattern}|{_word(there).pattern}", lambda _: pair, text, flags=re.I)

    def of_class(self, caption: str) -> str:
        """What is said of a picture of the class, made after a picture of the subject with this caption."""
        text = (self.class_prompt or SLOT).replace(SLOT, caption)
        if not self.instance_token or not self.class_token:
            return text
        contents, mine = self._contents(text), _word(self.instance_token)
        if contents == "instance":
            return mine.sub(lambda _: self.class_token, text)
        return _tidy(mine.sub("", text)) if contents == "both" and mine.search(text) else text

    def _contents(self, text: str) -> str:
        if self.file_prompt_contents != "auto":
            return self.file_prompt_contents
        mine, kind = (bool(_word(word).search(text)) for word in (self.instance_token, self.class_token))
        return {(True, True): "both", (True, False): "instance", (False, True): "class"}.get(
            (mine, kind), "description"
        )

    def many(self, pictures: int) -> int:
        """Pictures of the class beside so many of the subject."""
        return self.num_class_images or self.num_class_images_per * pictures


def _word(word: str) -> re.Pattern:
    """It, where it stands as a word."""
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)


def _joined(front: str, text: str) -> str:
    return f"{front}, {text}" if text else front


def _tidy(text: str) -> str:
    """Without the blanks and commas that a word left behind."""
    text = re.sub(r"\s+", " ", text)
    return re.sub(r"\s*,(\s*,)+", ",", re.sub(r"\s+,", ",", text)).strip(" ,")
