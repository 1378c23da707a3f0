"""Prompts to draw: read from files as sd-scripts reads them, with what the WebUI's prompts can hold."""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from lora_train.emphasis import literal, loras
from lora_train.errors import Mistake
from lora_train.toml import read_toml
from lora_train.values import shown

log = logging.getLogger(__name__)

SAMPLERS = {  # sd-scripts' and the WebUI's names -> ours
    "ddim": "ddim",
    "pndm": "pndm",
    "lms": "lms",
    "euler": "euler",
    "euler_a": "euler_a",
    "heun": "heun",
    "dpm_2": "dpm_2",
    "dpm_2_a": "dpm_2_a",
    "dpmsolver": "dpmsolver",
    "dpmsolver++": "dpm++_2m",
    "dpmsingle": "dpmsingle",
    "k_lms": "lms",
    "k_euler": "euler",
    "k_euler_a": "euler_a",
    "k_dpm_2": "dpm_2",
    "k_dpm_2_a": "dpm_2_a",
    "dpm++_2m": "dpm++_2m",
}
FLAGS = {
    "w": "width",
    "h": "height",
    "d": "seed",
    "s": "sample_steps",
    "l": "scale",
    "n": "negative_prompt",
    "ss": "sample_sampler",
}
FOREIGN = {  # sd-scripts' for other models and its own use; taken without effect
    "g": "guidance_scale",
    "cn": "controlnet_image",
    "ctr": "cfg_trunc_ratio",
    "rcfg": "renorm_cfg",
    "fs": "flow_shift",
    "enum": "enum",
}

WIDEST = 8192  # pixels of a side; more is a slip of the hand


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A picture to draw. The same prompt with a seed, on the same weights, is the same picture."""

    prompt: str
    negative_prompt: str = ""
    width: int = 512  # pixels, a multiple of 8
    height: int = 512
    seed: int | None = None  # None: another one each time
    sample_steps: int = 30
    scale: float = 7.5  # classifier-free guidance; 1: none
    sample_sampler: str = "ddim"  # a value of SAMPLERS


def sampler(name: str) -> str:
    """Our name of a sampler. Raises ValueError: there is none of that name."""
    if name.lower() not in SAMPLERS:
        raise ValueError(f"{name}: no such sampler; known: {', '.join(SAMPLERS)}")
    return SAMPLERS[name.lower()]


def defaults(
    trigger: str | None, captions: Sequence[str], size: tuple[int, int], *, weighted: bool = False
) -> list[Prompt]:
    """What to draw where nobody says: the trigger word, and two captions of the data set; fixed seeds.

    Args:
        captions: as they are trained.
        size: width, height; rounded down to multiples of 8.
        weighted: captions are trained with emphasis; if not, their brackets are drawn as they stand too.
    """
    texts = [trigger] if trigger else []
    texts += [text for text in dict.fromkeys(captions) if text.strip() and text != trigger][:2]
    width, height = (_side(side) for side in size)
    return [
        Prompt(text if weighted else literal(text), width=width, height=height, seed=seed)
        for seed, text in enumerate(texts or [""], 1)
    ]


def parse_prompt(line: str, default: str = "ddim") -> Prompt:
    """E.g. "a cat --n blurry --w 256 --d 1".

    Sizes are rounded down to a multiple of 8 and steps kept within 1 to 1000, as in sd-scripts. The text
    before the first flag is never read as one (sd-scripts takes "s 5 cats" for five steps).

    Args:
        default: sampler where the line names none.

    Raises:
        ValueError: an unknown flag or an unreadable value.
    """
    return _prompt(_flags(line), default)


def _flags(line: str) -> dict[str, object]:
    """A line as a table has it, but for names, which keep their --."""
    text, *flags = line.strip().split(" --")
    values: dict[str, object] = {"prompt": text.strip()}
    for flag in flags:
        name, _, value = flag.strip().partition(" ")
        name = name.lower()
        if name not in FLAGS and name not in FOREIGN:
            raise ValueError(f"--{name}: no such flag; {_hint(name)}")
        values[f"--{name}"] = value.strip()
    return values


def _hint(name: str) -> str:
    near = difflib.get_close_matches(name, FLAGS.values(), n=1)
    for short, long in FLAGS.items():
        if long in near:
            return f"did you mean --{short}?"
    return "known: " + ", ".join(f"--{short} ({long})" for short, long in FLAGS.items())


def _prompt(given: Mapping[str, object], default: str) -> Prompt:
    """{name in tables, or flag: value} -> the prompt.

    Raises:
        ValueError: an unknown name or an unreadable value.
    """
    known = ["prompt", *FLAGS.values()]
    values: dict[str, object] = {"prompt": "", "sample_sampler": sampler(default)}
    for name, value in given.items():
        field = FLAGS.get(name.removeprefix("--"), name) if name.startswith("--") else name
        if field in known:
            if value is not None:
                values[field] = _parsed(field, value, name)
        elif not _foreign(name):
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(
                f"{name}: no such name; "
                + (f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}")
            )
    loras(str(values["prompt"]))  # so that what is wrong with them is said with the line
    return Prompt(**values)


def _foreign(name: str) -> bool:
    return name.removeprefix("--") in FOREIGN if name.startswith("--") else name in FOREIGN.values()


def _parsed(field: str, value: object, name: str) -> object:
    said = f"{name} {value}" if name.startswith("--") else f"{name} = {shown(value)}"
    if field in ("prompt", "negative_prompt", "sample_sampler"):
        if not isinstance(value, str):
            raise ValueError(f"{said}: expected text")
        if any("\ud800" <= letter <= "\udfff" for letter in value):  # from JSON's escapes
            raise ValueError(f"{said}: expected text; a part of it is none in any encoding")
        return sampler(value) if field == "sample_sampler" else value
    expected = "a number" if field == "scale" else "a whole number"
    try:
        number = _number(field, value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{said}: expected {expected}") from None
    if not 0 <= number < 2**63:  # nan neither
        raise ValueError(f"{said}: expected 0 or more")
    if field in ("width", "height"):
        if number > WIDEST:
            raise ValueError(f"{said}: expected at most {WIDEST}")
        return _side(number)
    return max(1, min(1000, number)) if field == "sample_steps" else number


def _number(field: str, value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError
    if field == "scale":
        return float(value)
    if isinstance(value, float) and not value.is_integer():
        raise ValueError
    return int(value)


def _side(pixels: int) -> int:
    return max(64, pixels - pixels % 8)


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────


def read_prompts(
    path: pathlib.Path, default: str = "ddim", usual: Mapping[str, object] = MappingProxyType({})
) -> list[Prompt]:
    """The prompts of a file: .toml with [prompt] for all and [[prompt.subset]] for each, .json with a list of
    lines or tables, anything else with one a line, where empty ones and those that begin with # do not count.

    Args:
        default: sampler of prompts that name none.
        usual: what else prompts have that say nothing of it, by the names of tables.

    Raises:
        Mistake: no such file, none of these, no prompt in it, or prompts that cannot be read (all of them).
    """
    readers = {".toml": _tables, ".json": _list}
    prompts, complaints, idle = [], [], []
    for place, entry in readers.get(path.suffix.lower(), _lines)(path):
        try:
            given = _flags(entry) if isinstance(entry, str) else _table(entry)
            prompts.append(_prompt({**usual, **given}, default))
            idle += filter(_foreign, given)
        except ValueError as e:
            complaints.append(f"{path}, {place}: {e}")
    if not prompts and not complaints:
        complaints.append(f"{path}: no prompt in it; expected one a line")
    if complaints:
        raise Mistake("\n".join(complaints))
    if idle := [name for name in dict.fromkeys(idle) if name != "enum"]:
        log.info("%s: without effect here, for they are for other models: %s", path, ", ".join(idle))
    return prompts


def _table(entry: object) -> Mapping[str, object]:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{shown(entry)}: expected a line, or a table with prompt and the like")
    return {name: value for name, value in entry.items() if name != "subset"}


def _lines(path: pathlib.Path) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(map(str.strip, _text(path).splitlines()), 1):
        if line and not line.startswith("#"):
            yield f"line {number}", line


def _list(path: pathlib.Path) -> Iterator[tuple[str, object]]:
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError) as e:
        raise Mistake(f"{path}: not JSON: {e}") from e
    if not isinstance(found, list):
        raise Mistake(f"{path}: expected a list of prompts, each a line or a table")
    for number, entry in enumerate(found, 1):
        yield f"prompt {number}", entry


def _tables(path: pathlib.Path) -> Iterator[tuple[str, object]]:
    """What stands in a subset goes over what stands in [prompt]; without subsets, that is a prompt itself."""
    found = read_toml(path)
    shared = found.get("prompt", {})
    subsets = shared.get("subset", []) if isinstance(shared, Mapping) else None
    tables = isinstance(subsets, list) and all(isinstance(subset, Mapping) for subset in subsets)
    if lost := [name for name in found if name != "prompt"]:
        raise Mistake(f"{path}: {lost[0]}: expected [prompt] and [[prompt.subset]]")
    if not tables:
        raise Mistake(f"{path}: expected tables, [prompt] and [[prompt.subset]]")
    if not subsets and shared:
        yield "[prompt]", shared
    for number, subset in enumerate(subsets, 1):
        yield f"prompt.subset {number}", {**shared, **subset}


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as e:
        raise Mistake(f"{path}: expected a text file of prompts ({e.strerror})") from e
    except UnicodeDecodeError as e:
        raise Mistake(f"{path}: expected a text file of prompts in UTF-8") from e
