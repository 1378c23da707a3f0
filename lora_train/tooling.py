"""Commands of the tools: their settings as options, and what they report."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from lora_train.knobs import build, settings
from lora_train.options import Parser, add, parse
from lora_train.values import unwrapped

if TYPE_CHECKING:
    from lora_train.tools.tool import Report, Told, Tool

SHORT = re.compile("-[a-z]")  # resize_lora's -r, beside --r
ABOUT: dict[str, str] = {  # command -> what help lists it with; a row for each of TOOLS, which need torch
    "merge": "Merge LoRAs into a checkpoint, or into one LoRA.",
    "extract": "Extract a LoRA from a fine-tuned checkpoint.",
    "inspect": "Say what is in a LoRA file, what is wrong with it, and what reads it.",
    "convert-model": "Make a diffusers folder of a checkpoint, or the other way.",
    "dehydrate": "Store a fine-tuned checkpoint as its difference to its base.",
    "rehydrate": "Give back the checkpoint that dehydrate stored.",
    "metadata": "Show or edit what a file says of itself.",
    "card": "Show or edit the card that a WebUI shows of a LoRA.",
    "resize": "Lower the ranks of a LoRA.",
    "convert": "Spell a LoRA for other programs, or turn it into plain LoRA.",
}


def command(name: str) -> Callable[[Sequence[str]], int]:
    """What runs a tool on the words of a command line."""

    def run(words: Sequence[str]) -> int:
        from lora_train.tools import TOOLS

        return use(TOOLS[name], f"lora-train {name}", TOOLS[name].about or ABOUT[name], words)

    return run


def use(
    tool: type[Tool], prog: str, about: str, words: Sequence[str],
    run: Callable[[Tool, Told], Report] = lambda tool, told: tool.run(told), steps: str = "layers",
) -> int:  # fmt: skip
    """Read a tool's options from words, run it, and print what it has to say."""
    parser = Parser(prog, about)
    groups = {}
    for s in settings(tool):
        if s.group not in groups:
            groups[s.group] = parser.add_argument_group(s.group)
        add(groups[s.group], s, list(dict.fromkeys([*s.aka, s.path])), dest=s.path)
    parser.add_argument("--json", action="store_true", help="Print the report as JSON.")
    if tool.alone and words and not words[0].startswith("-"):
        words = [f"--{tool.alone}", *words]
    words = [f"-{word}" if SHORT.fullmatch(word) else word for word in words]
    given = parse(parser, words)
    as_json = given.pop("json", False)
    report = run(build(tool, _unsplit(tool, given)), _bar(steps))
    if as_json:
        sys.stdout.write(json.dumps(report.facts, indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in report.lines))
    return 0


def _unsplit(tool: type[Tool], given: Mapping[str, object]) -> dict[str, object]:
    """A word behind an option that takes several texts is one of them, whatever commas are in it."""
    texts = {s.path for s in settings(tool) if unwrapped(s.type)[0] == tuple[str, ...]}
    return {n: [v] if n in texts and isinstance(v, str) else v for n, v in given.items()}


def _bar(steps: str) -> Told:
    """A line that says how far it is, where somebody sits at a terminal."""
    if not sys.stderr.isatty():
        return lambda done, of: None

    def told(done: int, of: int) -> None:
        sys.stderr.write(f"\r{done} of {of} {steps}" if done < of else "\r" + " " * 40 + "\r")

    return told
