"""Captions: read from the file beside a picture, and made into the text of one sample."""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import pathlib
import random
import re

from lora_train.errors import Mistake
from lora_train.knobs import knob


@dataclasses.dataclass(frozen=True)
class CaptionRules:
    """What is done to a caption before the text encoder reads it, in sd-scripts' order."""

    caption_prefix: str | None = knob(
        None, "Put before every caption, with a blank between.", group="captions")  # fmt: skip
    caption_suffix: str | None = knob(
        None, "Put after every caption, with a blank between.", group="captions")  # fmt: skip
    shuffle_caption: bool = knob(
        False, "Put the comma-separated tags of a caption in a new order each time.", group="captions",
        basic=True)  # fmt: skip
    keep_tokens: int = knob(
        0, "The first so many tags, the prefix counted in, are never shuffled or dropped.", group="captions",
        low=0, high=255, unit="tags")  # fmt: skip
    caption_dropout_rate: float = knob(
        0.0, "Share of samples trained with an empty caption.", group="captions", low=0, high=1)  # fmt: skip
    caption_tag_dropout_rate: float = knob(
        0.0, "Chance of each tag to be left out of a sample's caption, but for those of keep_tokens.",
        group="captions", low=0, high=1)  # fmt: skip

    @property
    def random(self) -> bool:
        """Whether a caption may come out differently each time."""
        return self.shuffle_caption or self.caption_dropout_rate > 0 or self.caption_tag_dropout_rate > 0

    def apply(self, caption: str, rng: random.Random) -> str:
        """The caption of one sample.

        Prefix and suffix, then the whole caption dropped or not; then, if tags are shuffled or dropped: split
        at commas, shuffled, dropped one by one, joined with ", ". Draws only for the rules that are on.
        """
        caption = " ".join(part for part in (self.caption_prefix, caption, self.caption_suffix) if part)
        if self.caption_dropout_rate > 0 and rng.random() < self.caption_dropout_rate:
            return ""
        if not (self.shuffle_caption or self.caption_tag_dropout_rate > 0):
            return caption
        tags = [tag.strip() for tag in caption.split(",") if tag.strip()]
        kept, loose = tags[: self.keep_tokens], tags[self.keep_tokens :]
        if self.shuffle_caption:
            rng.shuffle(loose)
        if self.caption_tag_dropout_rate > 0:
            loose = [tag for tag in loose if rng.random() >= self.caption_tag_dropout_rate]
        return ", ".join(kept + loose)


def read(path: pathlib.Path) -> list[str]:
    """The lines of a caption file that hold text, stripped; training takes the first.

    Raises:
        Mistake: cannot be read, or is not UTF-8 (with or without byte order mark).
    """
    try:
        raw = path.read_bytes()
    except OSError as e:
        raise Mistake(f"{path}: cannot be read: {e.strerror or e}") from e
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = None
    if text is None or "\0" in text:
        raise Mistake(f"{path}: expected UTF-8 text; it looks like {_encoding(raw)}. Save it again as UTF-8")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _encoding(raw: bytes) -> str:
    """What a text that is not UTF-8 most likely is."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in raw:
        return 'UTF-16 (Notepad\'s "Unicode")'
    with contextlib.suppress(UnicodeDecodeError):
        # a Japanese letter by itself may be an accented one of Western Europe and the letter after it
        if re.search(r"[^\x00-\x7f]{2}", raw.decode("shift_jis")):
            return "Shift-JIS"
    return 'Windows-1252 or another old 8-bit encoding ("ANSI")'
