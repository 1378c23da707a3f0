"""What files of LoRAs are, and what a tool would make of them, by their headers alone."""

from __future__ import annotations

import functools
import math
import pathlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from lora_train.adapters.lora import DOWN, MID, UP
from lora_train.errors import Mistake
from lora_train.names import ARCHS
from lora_train.tools.merge import Merge
from lora_train.tools.opened import Opened
from lora_train.tools.programs import forms
from lora_train.tools.resize import Resize
from lora_train.tools.tool import Tool, Writing

Sizes = dict[str, tuple[int, int, tuple[int, ...]]]  # layer -> rank, values a rank, shape of the down factor
KEPT = 32  # headers that are remembered


def head(path: pathlib.Path) -> dict[str, object]:
    """What a file is; `error` in place of it where it is none.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    about = path.stat()
    return _head(path, about.st_size, about.st_mtime_ns)


@functools.lru_cache(KEPT)
def _head(path: pathlib.Path, size: int, when: int) -> dict[str, object]:
    try:
        file = Opened(path)
        named = Counter(map(str, forms(file).values()))
    except Mistake as e:
        return {"name": path.name, "error": str(e)}
    ranks = sorted({rank for rank, _, _ in sizes(file).values()})
    return {
        "name": path.name, "said": ARCHS[file.arch].said, "forms": [form for form, _ in named.most_common()],
        "ranks": ranks, "layers": len(file.layers), "bytes": size if path.is_file() else None,
    }  # fmt: skip


def sizes(file: Opened) -> Sizes:
    """Of its layers that are plain LoRA."""
    found = {}
    for key, held in file.layers.items():
        own = {name: file.weights.shapes[at] for name, at in held.names.items()}
        if DOWN in own and UP in own and MID not in own and own[DOWN] and own[DOWN][0]:
            rank = own[DOWN][0]
            found[key] = rank, (math.prod(own[DOWN]) + math.prod(own[UP])) // rank, own[DOWN]
    return found


def foreseen(tool: Tool) -> dict[str, object] | None:
    """{"bytes": of what it would write, "ranks": smallest and largest, "most": whether it may be less}; None
    where that cannot be told so cheaply.

    Raises:
        Mistake: a file is damaged.
        OSError: one is not there.
    """
    if isinstance(tool, Merge) and tool.sd_model is not None:
        whole = tool.save_precision is None and tool.sd_model.is_file()
        return {"bytes": tool.sd_model.stat().st_size, "ranks": [], "most": False} if whole else None
    if isinstance(tool, Resize) and not tool.recipe:
        return _told(tool, [path for _, path in tool.named()], added=False, cap=tool.cap)
    if isinstance(tool, Merge) and tool.way != "additive":
        ranks = (tool.new_rank, tool.new_conv_rank or tool.new_rank)
        return _told(tool, tool.models, added=True, cap=lambda shape: ranks[max(shape[2:], default=1) > 1])
    return None


def _told(
    tool: Writing, paths: Iterable[pathlib.Path], *, added: bool, cap: object
) -> dict[str, object] | None:
    files = [Opened(path) for path in paths]
    every = [sizes(file) for file in files]
    if not files or any(len(found) < len(file.layers) for file, found in zip(files, every, strict=True)):
        return None  # of other families it is told by what they add
    rows = [*_ranks(every, added, cap)]
    if not rows:
        return None
    each = tool.dtype(files[0].dtype).itemsize
    ranks = [rank for rank, _ in rows]
    most = isinstance(tool, Resize) and tool.dynamic_method is not None
    return {
        "bytes": sum(rank * values for rank, values in rows) * each,
        "ranks": sorted({min(ranks), max(ranks)}),
        "most": most,
    }


def _ranks(every: list[Sizes], added: bool, cap: object) -> Iterator[tuple[int, int]]:
    """(rank, values a rank) of each layer of the result."""
    layers: Mapping[str, None] = dict.fromkeys(key for found in every for key in found)
    for key in layers:
        there = [found[key] for found in every if key in found]
        _, values, shape = there[0]
        rank = sum(one[0] for one in there) if added else max(one[0] for one in there)
        yield min(rank, cap(shape) or rank), values
