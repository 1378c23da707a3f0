"""Emphasis: what people type into the WebUI's prompts, as pieces of text with weights and named LoRAs."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Container, Mapping, Sequence

from lora_train.values import shown

Piece = tuple[str, float]  # a text, and how much of it

CLOSING = {")": ("(", 1.1), "]": ("[", 1 / 1.1)}  # what opens it, and what is between is multiplied by
BREAK: Piece = ("BREAK", -1.0)  # the text after it begins a new chunk
PARTS = re.compile(
    r"\\[()\[\]\\]?"  # something that is meant as it stands
    r"|[(\[)\]]"
    r"|:\s*([+-]?[.\d]+)\s*\)"
    r"|[^\\()\[\]:]+"
    r"|:"
)
BREAKS = re.compile(r"\s*\bBREAK\b\s*")
TAG = re.compile(r"<(\w+):([^>]+)>")
KINDS = ("lora", "lyco")  # names the WebUI has for LoRAs
OTHERS = ("hypernet",)  # what else it reads in such brackets


def pieces(prompt: str) -> list[Piece]:
    r"""The WebUI's `parse_prompt_attention`: (x) is 1.1 of x, [x] 1/1.1, (x:1.3) 1.3; \( \) \[ \] \\ are the
    characters themselves; brackets that are not closed reach to the end.

    BREAK between round brackets is a word with a negative weight, as it is there. A weight that is no number,
    such as 1.2.3, stops the WebUI; here it is text.

    >>> pieces("a (house:1.3) [on] a hill")
    [('a ', 1.0), ('house', 1.3), (' ', 1.0), ('on', 0.9090909090909091), (' a hill', 1.0)]
    """
    found: list[list] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def multiply(start: int, factor: float) -> None:
        for piece in found[start:]:
            piece[1] *= factor

    for part in PARTS.finditer(prompt):
        text, number = part[0], _number(part[1])
        bracket, factor = CLOSING.get(text, ("", 1.0)) if number is None else ("(", number)
        if text.startswith("\\"):
            found.append([text[1:], 1.0])
        elif text in opened:
            opened[text].append(len(found))
        elif opened.get(bracket):
            multiply(opened[bracket].pop(), factor)
        else:
            for i, words in enumerate(BREAKS.split(text)):
                found += [[*BREAK], [words, 1.0]] if i else [[words, 1.0]]
    for bracket, factor in CLOSING.values():
        for start in opened[bracket]:
            multiply(start, factor)
    return _merged(found) or [("", 1.0)]


def _number(text: str | None) -> float | None:
    with contextlib.suppress(ValueError):
        return None if text is None else float(text)
    return None


def _merged(found: Sequence[Sequence]) -> list[Piece]:
    """Neighbours of one weight are one piece: a word's tokens depend on what stands beside it."""
    merged: list[Piece] = []
    for text, weight in found:
        if merged and merged[-1][1] == weight:
            merged[-1] = (merged[-1][0] + text, weight)
        else:
            merged.append((text, weight))
    return merged


def literal(text: str) -> str:
    r"""A prompt that reads as the text itself: "a (b)" -> "a \(b\)"."""
    return re.sub(r"[\\()\[\]]", r"\\\g<0>", text)


@dataclasses.dataclass(frozen=True)
class Named:
    """A LoRA that a prompt asks for."""

    name: str  # a file's, without its ending
    te: float = 1.0  # strength on the text encoder
    unet: float = 1.0
    lbw: str = ""  # weights of its blocks, and
    lbwe: str = ""  # elements, as `spelling.Book` reads them
    x: float = 1.0  # what X stands for there
    start: int = 0  # from which step on it acts on the UNet
    stop: int | None = None  # from which on no longer

    def acts(self, step: int) -> bool:
        """On the UNet, in a step as the WebUI counts them: those that are done by then but one, so that its
        first two are both 0. So start=n (2 or more) rests for n steps, stop=n acts for n, and 1 is at once.

        The rule is sd-webui-lora-block-weight's in that WebUI, on whose prompts it has to act the same.
        """
        return step > self.start - 2 and (self.stop is None or step <= self.stop - 2)

    @property
    def timed(self) -> bool:
        """Whether it does not act all the time."""
        return self.start > 1 or self.stop is not None


def loras(prompt: str) -> tuple[str, list[Named]]:
    """The prompt without its <lora:name:te:unet>, and what they say; the UNet's strength is the text
    encoder's if it is not given. What goes by a name may stand in any place: te, unet, and
    sd-webui-lora-block-weight's lbw (or w), lbwe, x, start, stop and step=from-to. As there, what is no
    number in the third place is lbw, and behind it stand lbwe or x.

    >>> text, named = loras("a cat <lora:style:0.8><lora:eyes:1:unet=0.5:lbw=OUTALL:step=5-20>")
    >>> [(one.name, one.te, one.unet, one.lbw, one.start, one.stop) for one in named]
    [('style', 0.8, 0.8, '', 0, None), ('eyes', 1.0, 0.5, 'OUTALL', 5, 20)]

    Raises:
        ValueError: something in such brackets that cannot be done, or read.
    """
    found: list[Named] = []

    def taken(tag: re.Match[str]) -> str:
        if tag[1] in OTHERS:
            raise ValueError(
                f"{tag[0]}: expected <lora:name:strength>; hypernetworks are not in this version"
            )
        if tag[1] not in KINDS:
            return tag[0]
        found.append(_named(tag[0], tag[2].split(":")))
        return ""

    return TAG.sub(taken, prompt), found


def without(prompt: str, names: Container[str]) -> str:
    """The prompt as it is, but without LoRAs of these names.

    >>> without("a cat <lora:style:0.8> <lora:eyes:1>", ["style"])
    'a cat  <lora:eyes:1>'
    """

    def kept(tag: re.Match[str]) -> str:
        return "" if tag[1] in KINDS and placed(tag[2].split(":"))["name"] in names else tag[0]

    return TAG.sub(kept, prompt)


NAMED = ("te", "unet", "dyn", "lbw", "lbwe", "x", "start", "stop", "step")
SAME = {"w": "lbw"}


def placed(words: Sequence[str]) -> dict[str, str]:
    """The parts of a tag by their names; what stands in no place that there is, as "more"."""
    values = {"name": words[0].strip()}
    places = iter(("te", "unet", "dyn"))
    for word in _whole(words[1:]):
        name, equals, value = word.partition("=")
        name = SAME.get(name.strip(), name.strip())
        if equals:
            values[name if name in NAMED else "more"] = value.strip()
            continue
        place, number = next(places, "more"), _number(word.strip()) is not None
        if place == "unet" and not number:
            place = "lbw"
        elif place == "dyn" and ("lbw" in values or not number):
            place = "x" if number else "lbwe"
        values.setdefault(place, word.strip())
    return values


def _whole(words: Sequence[str]) -> list[str]:
    """With elements behind a | in one again: they have : in them, BLOCKS:WORDS:RATIO."""
    found: list[str] = []
    rest = [*words]
    while rest:
        word = rest.pop(0)
        while "|" in word and ":" not in re.split(r"[|,]", word)[-1] and _ratio(rest):
            word = ":".join([word, rest.pop(0), rest.pop(0)])
        found.append(word)
    return found


def _ratio(words: Sequence[str]) -> bool:
    """Whether the second is a number, or begins with one."""
    return len(words) > 1 and "=" not in words[0] and _number(re.split(r"[|,]", words[1])[0]) is not None


def words_of(values: Mapping[str, str]) -> list[str]:
    """The parts of a tag again; numbers in the places where the WebUI itself reads them.

    >>> words_of({"name": "a", "te": "0.5", "lbw": "OUTALL"})
    ['a', '0.5', 'lbw=OUTALL']
    """
    words, rest = [values["name"]], {name: value for name, value in values.items() if name != "name"}
    for place in ("te", "unet", "dyn"):
        if place not in rest:
            break
        words.append(rest.pop(place))
    return [*words, *(f"{name}={value}" for name, value in rest.items())]


def _named(tag: str, words: Sequence[str]) -> Named:
    values = placed(words)
    if "dyn" in values or "more" in values:
        raise ValueError(f"{tag}: expected <lora:name:te:unet>; a fourth value is not in this version")
    return named_of(tag, values)


def named_of(tag: str, values: Mapping[str, str]) -> Named:
    """What the parts of a tag say, by their names.

    Raises:
        ValueError: they cannot be read; the message begins with the tag.
    """
    if not values.get("name"):
        raise ValueError(f"{tag}: expected a file's name, as in <lora:name:1>")
    te = _strength(tag, values.get("te", "1"))
    start, stop = _steps(tag, values)
    return Named(
        values["name"], te, _strength(tag, values["unet"]) if "unet" in values else te,
        values.get("lbw", ""), values.get("lbwe", ""), _strength(tag, values.get("x", "1")), start, stop,
    )  # fmt: skip


def _steps(tag: str, values: Mapping[str, str]) -> tuple[int, int | None]:
    first, _, last = values["step"].partition("-") if "step" in values else ("", "", "")
    first, last = values.get("start", first).strip(), values.get("stop", last).strip()
    for text in filter(None, (first, last)):
        if not re.fullmatch(r"\d{1,6}", text):
            raise ValueError(f"{tag}: {shown(text)} is no step; expected start=5, stop=20 or step=5-20")
    return int(first or 0), int(last) if last else None


def _strength(tag: str, text: str) -> float:
    number = _number(text.strip())
    if number is None or not abs(number) <= 100:  # nan neither
        raise ValueError(f"{tag}: {shown(text)} is no strength; expected a number such as 0.8")
    return number
