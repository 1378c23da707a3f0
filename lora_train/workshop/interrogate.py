"""`interrogate`: what the WebUI's own interrogators say of pictures; works inside it alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from PIL import Image

from lora_train.errors import Mistake
from lora_train.host import Host
from lora_train.knobs import knob
from lora_train.tools.tool import Report, Told, unheard
from lora_train.workshop.asking import Asking, Speaker


@dataclasses.dataclass(frozen=True)
class Interrogator:
    """One of the host's. Its answers are not kept, for they depend on settings that are not ours."""

    ask: Callable[[Image.Image], str]

    id = ""
    batch = 1

    def ready(self) -> None:
        """The host loads it when it is asked."""

    def prepared(self, image: Image.Image) -> Image.Image:
        return image

    def asked(self, batch: Sequence[Image.Image]) -> list[bytes]:
        return [" ".join(self.ask(image).split()).encode() for image in batch]


@dataclasses.dataclass(frozen=True)
class Interrogate(Asking):
    """Let the WebUI's own interrogators say what is in the pictures."""

    interrogator: str = knob(
        "clip", "clip: a sentence, and words on its style. deepdanbooru: tags. Thresholds and spelling are "
        "the WebUI's settings.", group="model", choices=("clip", "deepdanbooru"), basic=True)  # fmt: skip

    title = "interrogate"
    hosted = True

    def within(self, host: Host, told: Told = unheard) -> Report:
        class Here(Interrogate):
            def speaker(self) -> Speaker:
                return Interrogator(host.interrogator(self.interrogator, download=self.download))

        return Here(**vars(self)).run(told)

    def speaker(self) -> Speaker:
        raise Mistake("interrogate: works inside the WebUI alone; take tag or describe")
