"""Plan: what a sheet is to show, as settings."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from lora_train.knobs import knob, settings
from lora_train.plots.axes import STRONGEST, Axis, listed, named
from lora_train.prompts import SAMPLERS, WIDEST

SIDES = ("x", "y", "z")


@dataclasses.dataclass(frozen=True)
class Lines:
    """Texts, one a line."""

    texts: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Lines:
        return cls(tuple(line.strip() for line in text.split("\n") if line.strip()))

    def __str__(self) -> str:
        return "\n".join(self.texts)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a sheet shows. One axis along the top, one down the side, and one of sheets."""

    network_weights: tuple[pathlib.Path, ...] = knob(
        (), "LoRA files, or folders whose LoRA files are all meant.", group="sheet", place=True, basic=True
    )  # fmt: skip
    x: Axis | None = knob(
        None, "Along the top: an axis and its values, as in \"strength: 0-1.2:0.2\"; any setting of a "
        "training is an axis too, as in \"network.dim: 4, 8\". Empty: strength.", group="sheet",
        basic=True)  # fmt: skip
    y: Axis | None = knob(
        None, "Down the side, in the same way. Empty: the files where there are several, or else the "
        "prompts.", group="sheet", basic=True)  # fmt: skip
    z: Axis | None = knob(
        None, "Of the sheets, in the same way. Empty: prompts, where there are several left.", group="sheet",
        basic=True)  # fmt: skip
    tall: bool = knob(False, "Put all sheets of z below each other into one.", group="sheet")
    network_mul: float = knob(
        1.0, "Strength where no axis has another.", group="sheet", low=-STRONGEST, high=STRONGEST
    )
    block_weights: str | None = knob(
        None, "Strength of each block, where no axis has another: a preset's name, also of lbwpresets.txt "
        "beside the files, or 12, 17, 20 or 26 values. Empty: 1 each.", group="sheet")  # fmt: skip
    others: float = knob(
        0.0, "Strength of the blocks that a value of the axis block_id does not name.", group="sheet",
        low=-STRONGEST, high=STRONGEST)  # fmt: skip
    analyze: str | None = knob(
        None, "The blocks, such as 17ALL or IN04, OUT05, that are each turned down alone while all others "
        "are on; the sheet then has a table of how far each one moves the picture. block_strength on an axis "
        "says to what.", group="sheet")  # fmt: skip
    prompt: Lines | None = knob(
        None, "Prompts, one a line, with the flags of --from_file.", group="pictures", basic=True
    )
    from_file: pathlib.Path | None = knob(
        None, "Prompts, one a line: text --n negative --w 512 --h 512 --d seed --s steps --l cfg --ss "
        "sampler; or a .toml or .json of sd-scripts.", group="pictures", place=True)  # fmt: skip
    sampler: str = knob(
        "ddim", "Sampler of prompts that name none.", group="pictures", choices=tuple(SAMPLERS)
    )
    seed: int = knob(1, "Seed of prompts that name none.", group="pictures", low=0, high=2**53)
    seeds: int = knob(
        1, "Seeds of each prompt, from its own upwards, where no axis has others; they take a free side.",
        group="pictures", low=1, high=100)  # fmt: skip
    width: int = knob(512, "Of pictures of prompts that name none.", group="pictures", low=64, high=WIDEST)
    height: int = knob(512, "Of pictures of prompts that name none.", group="pictures", low=64, high=WIDEST)
    steps: int = knob(30, "Sampler's steps of prompts that name none.", group="pictures", low=1, high=1000)
    cfg: float = knob(7.5, "Guidance of prompts that name none.", group="pictures", low=0, high=STRONGEST)
    lora_dir: pathlib.Path | None = knob(
        None, "Where LoRAs are that prompts name, as in <lora:name:0.8>. Empty: the folders of "
        "network_weights.", group="pictures", place=True)  # fmt: skip
    score: bool = knob(
        False, "Also measure: how far each picture is from that without the LoRA and from the training "
        "pictures, and the loss on pictures at each strength; and suggest a file and strength.",
        group="scores", basic=True)  # fmt: skip
    score_data: pathlib.Path | None = knob(
        None, "Folder of pictures and captions to measure with, best of some that were not learned from. "
        "Empty: those of the run that made the file, where its records are beside it.", group="scores",
        place=True)  # fmt: skip
    score_pictures: int = knob(
        16, "Pictures that the loss is measured on at most.", group="scores", low=1, high=10000
    )
    threshold: int = knob(
        20, "Difference of a pixel, of 255, above which it counts as changed.", group="scores", low=0,
        high=254)  # fmt: skip
    outdir: pathlib.Path = knob(
        pathlib.Path("plot"), "Folder of the sheet: pictures, sheet.png and sheet.json. What is there is not "
        "drawn again.", group="sheet", place=True)  # fmt: skip
    output: pathlib.Path | None = knob(None, "Where the sheet goes as well.", group="sheet", place=True)

    def check(self) -> Iterable[str]:
        given = [(side, vars(self)[side]) for side in SIDES if vars(self)[side] is not None]
        for side, axis in given:
            twin = next(other for other, same in given if same.name == axis.name)
            if twin != side:
                yield f"{side} = {axis}: expected another axis than {twin} has"

    @property
    def axes(self) -> dict[str, Axis]:
        """Of the sides that are given."""
        return {side: axis for side in SIDES if (axis := vars(self)[side]) is not None}


def sides_of(values: Mapping[str, object]) -> Iterator[Axis]:
    """The axes that a plan of these values will have, as far as they can be read."""
    for side in (s for s in settings(Plan) if s.path in SIDES and values.get(s.path)):
        with contextlib.suppress(ValueError):
            yield side.parse(values[side.path])


def with_files(plan: Plan, of_run: Callable[[str], Sequence[pathlib.Path]] | None) -> Plan:
    """Of a plan whose axis of files names some, or a run, one that has these files.

    Args:
        of_run: all that a run saved, by its name; None: files that are named have to be among
            network_weights.

    Raises:
        Mistake: there is no such run.
    """
    side = next((side for side, axis in plan.axes.items() if axis.name == "file"), None)
    if side is None:
        return plan
    more: list[pathlib.Path] = []
    kept: list[str] = []
    for word in named(vars(plan)[side].words):
        if word.startswith("run ") and of_run is not None:
            found = of_run(word.removeprefix("run ").strip())
            more += found
            kept += map(str, found)
        else:
            path = pathlib.Path(word)
            more += [path] * (of_run is not None and path.is_file())
            kept.append(word)
    weights = tuple(dict.fromkeys([*plan.network_weights, *more]))
    return dataclasses.replace(plan, network_weights=weights, **{side: Axis("file", listed(kept))})
