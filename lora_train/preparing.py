"""`lora-train dataset`: the workshop's works as commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lora_train.errors import Mistake
from lora_train.tooling import use

if TYPE_CHECKING:
    from lora_train.tools.tool import Report, Told, Tool

TEXT = "usage: lora-train dataset WORK FOLDER [options]\n\nPrepare a folder of pictures for training.\n\n"


def command(words: Sequence[str]) -> int:
    """Returns the exit status."""
    from lora_train.workshop import WORKS

    name, rest = (words[0], words[1:]) if words else ("--help", ())
    if name in ("-h", "--help"):
        rows = "".join(
            f"  {work:<12} {tool.said().split('. ')[0].rstrip('.')}.\n" for work, tool in WORKS.items()
        )
        sys.stdout.write(f"{TEXT}{rows}\nlora-train dataset WORK --help lists the options of one.\n")
        return 0
    if name not in WORKS:
        raise Mistake(f"{name}: no such work; there is {', '.join(WORKS)}")
    tool = WORKS[name]
    return use(tool, f"lora-train dataset {name}", tool.said(), _filtered(rest), _run, "pictures")


def _filtered(words: Sequence[str]) -> list[str]:
    """A filter that begins with - is no option."""
    found: list[str] = []
    for word in words:
        if found and found[-1] == "--only" and word.startswith("-") and not word.startswith("--"):
            found[-1] += f"={word}"
        else:
            found.append(word)
    return found


def _run(tool: Tool, told: Told) -> Report:
    """With a host for what draws, and problems known where they are asked for."""
    from lora_train.run.control import Ended
    from lora_train.stopping import interruptible
    from lora_train.workshop.report import Check
    from lora_train.workshop.work import Look, Work

    if isinstance(tool, Look) and "problem:" in tool.only:
        own = {
            name: vars(tool)[name] for name in ("folder", "recursive", "follow_links", "caption_extension")
        }
        Check(**own).found(tool.opened(), told)
    if not (isinstance(tool, Work) and tool.keeps):
        return _used(tool, told)
    with interruptible("Stopping; what is done by now is kept") as control:

        def heard(done: int, of: int) -> None:
            if control.stopping:
                raise Ended
            told(done, of)

        return _used(tool, heard)


def _used(tool: Tool, told: Told) -> Report:
    if not tool.hosted:
        return tool.run(told)
    from lora_train.hosts.standalone.host import StandaloneHost

    return tool.within(StandaloneHost(), told)
