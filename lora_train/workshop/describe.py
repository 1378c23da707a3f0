"""`describe`: captions of sentences, by a captioner on this machine or behind an address."""

from __future__ import annotations

import dataclasses
import pathlib
import urllib.parse
from collections.abc import Iterable

from lora_train.knobs import knob
from lora_train.workshop.address import KEY, Address
from lora_train.workshop.asking import Asking, Speaker
from lora_train.workshop.captioner import Captioner

USUAL = "Salesforce/blip-image-captioning-large"


@dataclasses.dataclass(frozen=True)
class Describe(Asking):
    """Let a model describe the pictures in sentences."""

    captioner: str | None = knob(
        None, "A folder with a BLIP, BLIP-2 or GIT model as transformers has it, or its name on Hugging "
        f"Face. Empty: {USUAL}. With address: the server's name of a model; empty: its first.",
        group="model", basic=True)  # fmt: skip
    address: str | None = knob(
        None, "Ask a server that speaks as OpenAI's does, such as http://localhost:1234/v1; the pictures are "
        f"sent there. Its key, if it wants one, is read from the environment's {KEY}. Empty: nothing is "
        "sent anywhere.", group="model")  # fmt: skip
    prompt: str | None = knob(
        None, "What a server is asked, or the words that a captioner begins with, which are not written.",
        group="model", basic=True)  # fmt: skip
    num_beams: int = knob(
        3, "Beams of a captioner's search; 1 is fastest.", group="model", low=1, high=16)  # fmt: skip
    min_length: int = knob(5, "Tokens that a captioner writes at least.", group="model", low=0, high=500)
    max_length: int = knob(75, "Tokens that are written at most.", group="model", low=1, high=2000)
    longest_side: int = knob(
        1024, "Pixels of the longer side of what is sent to a server, at most.", group="model", low=64,
        high=8192, unit="pixels")  # fmt: skip
    batch_size: int = knob(4, "Pictures at once.", group="model", low=1, high=64)
    device: str = knob(
        "auto", "Where it is computed; auto takes a graphics card if there is one.", group="model",
        choices=("auto", "cpu", "cuda"))  # fmt: skip

    title = "describe"

    def check(self) -> Iterable[str]:
        yield from super().check()
        if self.min_length > self.max_length:
            yield f"min_length = {self.min_length}: expected no more than max_length, {self.max_length}"
        if self.address is not None:
            if not _server(self.address):
                yield f"address = {self.address}: expected one such as http://localhost:1234/v1"
        elif self.captioner and not pathlib.Path(self.captioner).exists() and self.captioner.count("/") != 1:
            yield f"captioner = {self.captioner}: expected a folder, or a name such as {USUAL}"

    def named(self) -> Iterable[tuple[str, pathlib.Path]]:
        """Also what is no path: where others reach the page, only who sits at the machine may have pictures
        sent somewhere, or has a model loaded that anybody may have made."""
        said = {"captioner": self.captioner, "address": self.address}
        return [(name, pathlib.Path(value)) for name, value in said.items() if value]

    def speaker(self) -> Speaker:
        if self.address is not None:
            return Address(
                self.address, self.captioner or "", self.prompt or "", self.longest_side, self.max_length,
                self.batch_size)  # fmt: skip
        return Captioner(
            self.captioner or USUAL, self.prompt or "", self.num_beams, self.min_length, self.max_length,
            self.download, self.device, self.batch_size)  # fmt: skip


def _server(address: str) -> bool:
    """Whether it can be one."""
    try:
        parts = urllib.parse.urlsplit(address)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets or a port that are none
        return False
