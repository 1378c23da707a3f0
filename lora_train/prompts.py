"""Prompts to draw: one a line, with sd-scripts' flags."""

from __future__ import annotations

import dataclasses
import difflib
import pathlib

from lora_train.errors import Mistake

SAMPLERS = {  # sd-scripts' and the WebUI's names -> ours
    "ddim": "ddim",
    "euler": "euler",
    "k_euler": "euler",
    "euler_a": "euler_a",
    "k_euler_a": "euler_a",
    "dpm++_2m": "dpm++_2m",
    "dpmsolver++": "dpm++_2m",
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
FOREIGN = {"g", "cn", "ctr", "rcfg", "fs"}  # sd-scripts' for other models; taken without effect


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


def parse_prompt(line: str, default: str = "ddim") -> Prompt:
    """E.g. "a cat --n blurry --w 256 --d 1".

    Sizes are rounded down to a multiple of 8 and steps kept within 1 to 1000, as in sd-scripts. The text
    before the first flag is never read as one (sd-scripts takes "s 5 cats" for five steps).

    Args:
        default: sampler where the line names none.

    Raises:
        ValueError: an unknown flag or an unreadable value.
    """
    text, *flags = line.strip().split(" --")
    values: dict[str, object] = {"sample_sampler": sampler(default)}
    for flag in flags:
        name, _, value = flag.strip().partition(" ")
        name, value = name.lower(), value.strip()
        if name in FLAGS:
            values[FLAGS[name]] = _parsed(name, value)
        elif name not in FOREIGN:
            raise ValueError(f"--{name}: no such flag; {_hint(name)}")
    return Prompt(text.strip(), **values)


def _hint(name: str) -> str:
    near = difflib.get_close_matches(name, FLAGS.values(), n=1)
    for short, long in FLAGS.items():
        if long in near:
            return f"did you mean --{short}?"
    return "known: " + ", ".join(f"--{short} ({long})" for short, long in FLAGS.items())


def _parsed(name: str, value: str) -> object:
    if name == "n":
        return value
    if name == "ss":
        return sampler(value)
    try:
        number = float(value) if name == "l" else int(value)
    except ValueError:
        expected = "a number" if name == "l" else "a whole number"
        raise ValueError(f"--{name} {value}: expected {expected}") from None
    if not 0 <= number < 2**63:  # nan neither
        raise ValueError(f"--{name} {value}: expected 0 or more")
    if name in ("w", "h"):
        return max(64, number - number % 8)
    return max(1, min(1000, number)) if name == "s" else number


def read_prompts(path: pathlib.Path, default: str = "ddim") -> list[Prompt]:
    """The prompts of a text file; empty lines and those that begin with # are left out.

    Args:
        default: sampler of prompts that name none.

    Raises:
        Mistake: no such file, not text, no prompt in it, or lines that cannot be read (all of them).
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as e:
        raise Mistake(f"{path}: expected a text file of prompts ({e.strerror})") from e
    except UnicodeDecodeError as e:
        raise Mistake(f"{path}: expected a text file of prompts in UTF-8") from e
    prompts, complaints = [], []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        try:
            prompts.append(parse_prompt(line, default))
        except ValueError as e:
            complaints.append(f"{path}, line {number}: {e}")
    if not prompts and not complaints:
        complaints.append(f"{path}: no prompt in it; expected one a line")
    if complaints:
        raise Mistake("\n".join(complaints))
    return prompts
