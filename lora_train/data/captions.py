"""Captions: read from the file beside a picture, and made into the text of one sample."""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import math
import pathlib
import random
import re
from collections.abc import Iterable

from lora_train.errors import Mistake
from lora_train.knobs import knob

LONGEST = 500_000  # bytes of a caption file; the text encoder would chew on more for minutes
SLOT = "[trigger]"  # stands for the trigger word in a caption, as in ai-toolkit
WILDCARD = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")  # {{ and }} are braces themselves
CODECS = {"utf-8": "utf-8-sig", "shift_jis": "cp932", "cp1252": "cp1252", "utf-16": "utf-16"}
LABELS = {
    "shift_jis": "Shift-JIS",
    "cp1252": 'Windows-1252 or another old 8-bit encoding ("ANSI")',
    "utf-16": 'UTF-16 (Notepad\'s "Unicode")',
}


@dataclasses.dataclass(frozen=True)
class Moment:
    """When in the run a caption is needed."""

    epoch: int = 0  # from 0
    step: int = 0  # that is about to be done, from 0
    steps: int = 0  # of the run


@dataclasses.dataclass(frozen=True)
class CaptionRules:
    """What is done to a caption before the text encoder reads it, in sd-scripts' order."""

    trigger_word: str | None = knob(
        None, "Word that calls the LoRA. It comes first in every caption that does not hold it, or stands "
        "where a caption says [trigger]; the tag with it is never shuffled or dropped. Captions of "
        "regularisation pictures do not get it.", group="captions", basic=True)  # fmt: skip
    caption_prefix: str | None = knob(
        None, "Put before every caption, with a blank between.", group="captions")  # fmt: skip
    caption_suffix: str | None = knob(
        None, "Put after every caption, with a blank between.", group="captions")  # fmt: skip
    caption_separator: str = knob(",", "What stands between the tags of a caption.", group="captions")
    shuffle_caption: bool = knob(
        False, "Put the comma-separated tags of a caption in a new order each time.", group="captions",
        basic=True)  # fmt: skip
    keep_tokens: int = knob(
        0, "The first so many tags, trigger word and prefix counted in, are never shuffled or dropped.",
        group="captions", low=0, high=255, unit="tags")  # fmt: skip
    keep_tokens_separator: str | None = knob(
        None, "In captions that hold it, such as |||, it ends the tags that are never shuffled or dropped, "
        "in place of keep_tokens; after a second one stand tags that stay at the end.",
        group="captions")  # fmt: skip
    secondary_separator: str | None = knob(
        None, "Tags with this between them, such as ;;;, are shuffled and dropped together; the text encoder "
        "reads caption_separator in its place.", group="captions")  # fmt: skip
    enable_wildcard: bool = knob(
        False, "In {red|blue} one is chosen each time, and of a caption with several lines one line. {{ and "
        "}} are braces.", group="captions")  # fmt: skip
    caption_dropout_rate: float = knob(
        0.0, "Share of samples trained with an empty caption.", group="captions", low=0, high=1)  # fmt: skip
    caption_dropout_every_n_epochs: int = knob(
        0, "In every n-th epoch all captions are empty; 0: never.", group="captions", low=0,
        high=1_000_000)  # fmt: skip
    caption_tag_dropout_rate: float = knob(
        0.0, "Chance of each tag to be left out of a sample's caption, but for those of keep_tokens.",
        group="captions", low=0, high=1)  # fmt: skip
    token_warmup_min: int = knob(
        1, "Tags that captions begin with where token_warmup_step is set, those of keep_tokens not counted.",
        group="captions", low=1, high=255, unit="tags")  # fmt: skip
    token_warmup_step: float = knob(
        0.0, "Steps until captions have all their tags; below 1 it is a share of the run's steps.",
        group="captions", low=0, high=1e7)  # fmt: skip
    caption_encoding: str = knob(
        "utf-8", "What caption files are written in; auto takes what each looks like.", group="captions",
        choices=(*CODECS, "auto"))  # fmt: skip

    def check(self) -> Iterable[str]:
        if not self.caption_separator.strip():
            yield "caption_separator: expected something between tags, such as a comma"

    @property
    def random(self) -> bool:
        """Whether a caption may come out differently each time."""
        return bool(
            self.shuffle_caption
            or self.caption_dropout_rate
            or self.caption_dropout_every_n_epochs
            or self.caption_tag_dropout_rate
            or self.token_warmup_step
            or self.enable_wildcard
        )

    def apply(self, caption: str, rng: random.Random, moment: Moment = Moment()) -> str:  # noqa: B008
        """The caption of one sample. Draws only for the rules that are on.

        The whole caption dropped or not; trigger word, prefix and suffix; wildcards; then, if tags are told
        apart: those that stay, warm-up, shuffling and dropping of the others, joined with ", ". Where
        sd-scripts differs: a line is chosen before the prefix is put to it, so that each line has it; and
        keep_tokens_separator never reaches the text encoder.
        """
        if self.caption_dropout_rate > 0 and rng.random() < self.caption_dropout_rate:
            return ""
        every = self.caption_dropout_every_n_epochs
        if every and (moment.epoch + 1) % every == 0:
            return ""
        lines = caption.split("\n")
        line = rng.choice(lines) if self.enable_wildcard and len(lines) > 1 else lines[0]
        text = " ".join(part for part in (self.caption_prefix, line, self.caption_suffix) if part)
        text = self._triggered(text)
        if self.enable_wildcard:
            text = WILDCARD.sub(lambda m: rng.choice(m[1].split("|")) if m[1] else m[0][0], text)
        between = self.keep_tokens_separator
        if self.shuffle_caption or self.caption_tag_dropout_rate or self.token_warmup_step or (
            between and between in text
        ):  # fmt: skip
            text = self._mixed(text, rng, moment)
        if self.secondary_separator:
            text = text.replace(self.secondary_separator, self.caption_separator)
        return text

    @property
    def call(self) -> str | None:
        """The trigger word, where captions get one."""
        return self.trigger_word

    def _triggered(self, text: str) -> str:
        word = self.call
        if SLOT in text:
            text = text.replace(SLOT, word or "").strip()
        if not word or self.holds(text):
            return text
        return f"{word}{self.caption_separator} {text}" if text else word

    def holds(self, text: str) -> bool:
        """Whether the trigger word is in it, as a word."""
        word = self.call
        return bool(word and re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE))

    def _mixed(self, text: str, rng: random.Random, moment: Moment) -> str:
        kept, loose, end = self._told_apart(text)
        loose = loose[: self._warm(len(loose), moment)]
        if self.shuffle_caption:
            rng.shuffle(loose)
        if self.caption_tag_dropout_rate > 0:
            loose = [tag for tag in loose if rng.random() >= self.caption_tag_dropout_rate]
        return ", ".join([*kept, *loose, *end])

    def _told_apart(self, text: str) -> tuple[list[str], list[str], list[str]]:
        """Tags that stay in front, those that may be shuffled and dropped, those that stay at the end."""

        def tags(part: str) -> list[str]:
            return [tag.strip() for tag in part.split(self.caption_separator) if tag.strip()]

        between = self.keep_tokens_separator
        if between and between in text:
            front, _, rest = text.partition(between)
            middle, _, back = rest.partition(between)
            kept, loose, end = tags(front), tags(middle), tags(back)
        else:
            every = tags(text)
            kept, loose, end = every[: self.keep_tokens], every[self.keep_tokens :], []
        calls = [tag for tag in loose if self.holds(tag)]
        return [*kept, *calls], [tag for tag in loose if tag not in calls], end

    def _warm(self, count: int, moment: Moment) -> int:
        """How many of so many loose tags are used at this step."""
        steps = self.token_warmup_step
        if 0 < steps < 1:
            steps = math.floor(steps * moment.steps)
        if moment.step >= steps:
            return count
        least = min(count, self.token_warmup_min)
        return least + math.floor(moment.step * (count - least) / steps)


def read(path: pathlib.Path, encoding: str = "utf-8") -> list[str]:
    """The lines of a caption file that hold text, stripped.

    Args:
        encoding: a name in CODECS, or "auto".

    Raises:
        Mistake: cannot be read, or is written in something else; the message says what it looks like.
    """
    text, _ = whole(path, encoding)
    return [line.strip() for line in text.splitlines() if line.strip()]


def whole(path: pathlib.Path, encoding: str = "auto") -> tuple[str, str]:
    """All of a caption file but blanks at its ends, and what it is written in.

    Raises:
        Mistake: cannot be read, or is written in something else; the message says what it looks like.
    """
    try:
        size = path.stat().st_size
        raw = path.read_bytes() if size <= LONGEST else b""
    except OSError as e:
        raise Mistake(f"{path}: cannot be read: {e.strerror or e}") from e
    if size > LONGEST:
        raise Mistake(f"{path}: expected a caption, at most {LONGEST:,} bytes; it has {size:,}")
    if encoding == "auto":
        encoding = detected(raw)
    try:
        text = raw.decode(CODECS[encoding])
    except UnicodeError:
        text = "\0"
    if "\0" in text:
        raise Mistake(f"{path}: {_instead(raw, encoding)}")
    return text.strip(), encoding


def detected(raw: bytes) -> str:
    """What a text is most likely written in, as a name in CODECS."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in raw:
        return "utf-16"
    with contextlib.suppress(UnicodeDecodeError):
        raw.decode("utf-8-sig")
        return "utf-8"
    with contextlib.suppress(UnicodeDecodeError):
        # a Japanese letter by itself may be an accented one of Western Europe and the letter after it
        if re.search(r"[^\x00-\x7f]{2}", raw.decode(CODECS["shift_jis"])):
            return "shift_jis"
    return "cp1252"


def _instead(raw: bytes, encoding: str) -> str:
    like = detected(raw)
    asked = "UTF-8" if encoding == "utf-8" else LABELS[encoding]
    if like == encoding or (like == "utf-16" and b"\0\0" in raw):
        return f"expected {asked} text; it looks like no text at all. Write the caption anew"
    seen = LABELS.get(like, "UTF-8")
    return (
        f"expected {asked} text; it looks like {seen}. Save it again as UTF-8, or set "
        f"caption_encoding = {like}"
    )
