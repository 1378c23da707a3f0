"""Says in a WebUI with a backend of its own that training there is not here yet; touches nothing of it."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lora_train.errors import Mistake

if TYPE_CHECKING:
    from PIL import Image

    from lora_train.host import Folders, Model

NOTHING = (
    "name", "path", "hash", "family", "prediction", "ztsnr", "vae", "dtype", "device", "free_megabytes",
    "total_megabytes", "unchanged", "memory",
)  # fmt: skip


class ForgeHost:
    """See `lora_train.host.Host`."""

    def __init__(self, reason: str, folders: Callable[[], Folders]):
        """reason: the sentence that says what is not supported."""
        self.reason, self._folders = reason, folders

    @property
    def folders(self) -> Folders:
        return self._folders()

    def borrow(
        self, model: Model, *, device: str, precision: str, waiting: Callable[[], None] = lambda: None
    ) -> contextlib.AbstractContextManager:
        raise Mistake(self.reason)

    def header(self) -> dict[str, object]:
        found: dict[str, object] = dict.fromkeys(NOTHING)
        return {**found, "loaded": False, "trainable": False, "reason": self.reason}

    def refusals(self, job: object, output: object, place: object) -> list[str]:
        return [self.reason]

    def announce(self, file: pathlib.Path, job: object, output: object) -> list[str]:
        return []

    def upscaler(self, name: str, *, download: bool) -> Callable[[Image.Image, float], Image.Image]:
        raise Mistake(self.reason)

    def wrote(self, files: Sequence[pathlib.Path]) -> list[str]:
        return []
