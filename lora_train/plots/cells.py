"""Cells: the pictures that a plan comes to, each with all that it depends on."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from lora_train.blocks import BLOCKS, BlockWeights
from lora_train.emphasis import loras, without
from lora_train.errors import Mistake
from lora_train.knobs import nearest
from lora_train.plots.axes import AXES, Axis, Value, blocks_of, labelled, sure
from lora_train.plots.plan import SIDES, Lines, Plan
from lora_train.plots.shot import Shot, tagged
from lora_train.plots.sweep import LAST, WITHOUT, Bred, epochs, setting, swept
from lora_train.prompts import Prompt, parse_prompt, read_prompts
from lora_train.spelling import Book
from lora_train.values import shown

PICTURES = 2000  # of a sheet; more is a slip of the hand
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of a sheet with its values. One that does not vary has one value, and no name."""

    name: str = ""
    values: tuple[Value, ...] = ("",)
    labels: tuple[str, ...] = ("",)


@dataclasses.dataclass(frozen=True)
class Grid:
    """A plan whose values are all known good."""

    plan: Plan
    sides: tuple[Side, Side, Side]
    files: tuple[pathlib.Path, ...]
    prompts: tuple[Prompt, ...]
    runs: Mapping[pathlib.Path, Bred]  # by what it ends with
    book: Book = dataclasses.field(default_factory=Book)  # presets of block weights

    def places(self) -> Iterator[tuple[int, int, int]]:
        """(x, y, z), as a sheet is read."""
        nx, ny, nz = (len(side.values) for side in self.sides)
        return ((x, y, z) for z in range(nz) for y in range(ny) for x in range(nx))

    def values(self, place: Sequence[int]) -> dict[str, Value]:
        """{axis: value} of a cell."""
        sides = zip(self.sides, place, strict=True)
        return {side.name: side.values[i] for side, i in sides if side.name}

    def shot(self, place: Sequence[int]) -> Shot:
        plan, at = self.plan, self.values(place)
        both = at.get("strength", plan.network_mul)
        te, unet = float(at.get("te_strength", both)), float(at.get("unet_strength", both))
        prompt = self._own(_prompt(self.prompts, at))
        if (not te and not unet) or at.get("file") == WITHOUT:
            return Shot(prompt)
        return Shot(
            prompt, self._file(at), te, unet, self._blocks(at, prompt.seed), at.get("start"), at.get("stop")
        )  # fmt: skip

    def _own(self, prompt: Prompt) -> Prompt:
        """Without what the prompt says of a LoRA of the sheet: how strong that is, each cell says."""
        return dataclasses.replace(prompt, prompt=without(prompt.prompt, self._names))

    @property
    def _names(self) -> frozenset[str]:
        """By which prompts name its LoRAs."""
        made = (file for run in self.runs.values() for file in run.files.values())
        return frozenset(file.stem for file in (*self.files, *made))

    @property
    def unheard(self) -> list[str]:
        """LoRAs of the sheet that its prompts name as well."""
        said = [one.name for prompt in self.prompts for one in loras(prompt.prompt)[1]]
        return [name for name in dict.fromkeys(said) if name in self._names]

    def whole(self, place: Sequence[int]) -> Shot:
        """What a cell is compared to where blocks are: the same file, wholly on."""
        shot = self.shot(place)
        return dataclasses.replace(shot, blocks=BlockWeights()) if shot.on else shot

    def _blocks(self, at: Mapping[str, Value], seed: int | None) -> BlockWeights:
        """Those that are drawn are drawn of the picture's seed, as in prompts."""
        said = at.get("block_weights", self.plan.block_weights)
        if "block_id" not in at:
            draw = random.Random(seed)  # noqa: S311 (nobody's secret)
            return BlockWeights() if said is None else self.book.weights(str(said), draw=draw)
        these, strength = blocks_of(str(at["block_id"])), float(at.get("block_strength", 1.0))
        others = self.plan.others
        return BlockWeights(tuple(strength if block in these else others for block in BLOCKS))

    def _file(self, at: Mapping[str, Value]) -> pathlib.Path:
        if self.runs:
            wanted = {name: value for name, value in at.items() if "." in name}
            run = next(run for run in self.runs.values() if wanted.items() <= run.settings.items())
            return run.files[at.get("file", LAST)]
        names = dict(zip(stems(self.files), self.files, strict=True))
        return names[at["file"]] if "file" in at else self.files[0]

    @property
    def compares_blocks(self) -> bool:
        return any(side.name == "block_id" for side in self.sides)


def drawn_up(
    plan: Plan, job: Mapping[str, object] | None = None, prompts: Sequence[Prompt] | None = None,
    shelves: Sequence[pathlib.Path] = (),
) -> Grid:  # fmt: skip
    """The plan with every value of it read and found good; nothing is loaded.

    Args:
        job: settings of the run that settings on the axes are varied of, by path.
        prompts: in place of those that the plan names.
        shelves: folders in which presets of block weights lie, beside those of the files.

    Raises:
        Mistake: everything that is wrong, one a line.
    """
    reader = _Reader(analyzed(plan), prompts, shelves)
    grid = reader.grid(job)
    if not reader.complaints:
        reader.complaints += _unread(grid)
    if reader.complaints:
        raise Mistake("\n".join(dict.fromkeys(reader.complaints)))
    return grid


def analyzed(plan: Plan) -> Plan:
    """Of a plan that analyzes blocks the same one with its axes."""
    if plan.analyze is None:
        return plan
    strengths = next((a for a in plan.axes.values() if a.name == "block_strength"), Axis("block_strength"))
    others = [(side, axis) for side, axis in plan.axes.items() if axis is not strengths]
    if others:
        lost = (
            f"{side} = {axis}: expected nothing but block_strength beside analyze" for side, axis in others
        )
        raise Mistake("\n".join(lost))
    return dataclasses.replace(plan, x=strengths, y=Axis("block_id", plan.analyze), z=None, others=1.0)


class _Reader:
    """One call of `drawn_up`: what was read of the plan, and what is wrong with it."""

    def __init__(self, plan: Plan, prompts: Sequence[Prompt] | None, shelves: Sequence[pathlib.Path]):
        self.plan, self.complaints = plan, []
        self.axes = {side: self._named(axis) for side, axis in plan.axes.items()}
        self.files = self._tried(lambda: [*_files(plan)], [])
        folder = [plan.lora_dir] if plan.lora_dir else []
        self.book = Book.read([*shelves, *folder, *(file.parent for file in self.files)])
        own = [] if prompts is None else _seeded(prompts, plan)
        self.prompts = own or self._tried(lambda: _prompts(plan, self._axis("prompt")), [])
        self._fill()

    def grid(self, job: Mapping[str, object] | None) -> Grid:
        read = {side: self._side(axis) for side, axis in self.axes.items()}
        self.complaints += self._clashes({side.name for side in read.values()})
        sides = tuple(read.get(side, Side()) for side in SIDES)
        count = math.prod(len(side.values) for side in sides)
        if count > PICTURES:
            self.complaints.append(f"expected at most {PICTURES} pictures; these are {count}")
        varied = {side.name: side.values for side in sides if "." in side.name}
        runs = {}
        if varied and not self.complaints:
            files = next((side.values for side in sides if side.name == "file"), (LAST,))
            runs = self._tried(lambda: swept(varied, job, self.plan.outdir, files), {})
        return Grid(self.plan, sides, tuple(self.files), tuple(self.prompts), runs, self.book)

    def _tried(self, look: Callable[[], T], usual: T) -> T:
        try:
            return look()
        except Mistake as e:
            self.complaints += str(e).splitlines()
            return usual

    def _axis(self, name: str) -> Axis | None:
        return next((axis for axis in self.axes.values() if axis.name == name), None)

    @property
    def _sweeps(self) -> bool:
        return any("." in axis.name for axis in self.axes.values())

    def _named(self, axis: Axis) -> Axis:
        """The axis under the name it has in `AXES`, or a setting's under its path."""
        if axis.kind is not None:
            return axis
        found = setting(axis.name)
        if found is not None:
            return Axis(found.path, axis.words)
        self.complaints.append(
            f"{axis.name}: no such axis{nearest(axis.name, AXES)}; there are {', '.join(AXES)}, and every "
            "setting of a training that changes what is learned, such as network.dim"
        )
        return axis

    def _fill(self) -> None:
        """Sides that are left empty take what there is several of."""
        taken = {axis.name for axis in self.axes.values()}
        free = [side for side in SIDES if side not in self.axes]
        if not taken:
            self.axes[free.pop(0)] = Axis("strength")
        begun = {prompt.seed for prompt in self.prompts} or {self.plan.seed}
        first = min(begun)
        if self.plan.seeds > 1 and "seed" not in taken and len(begun) > 1:
            listed = ", ".join(map(str, sorted(begun)))
            self.complaints.append(
                f"seeds = {self.plan.seeds}: expected prompts of one seed; theirs are {listed}"
            )
        several = {
            "file": (0 if self._sweeps else len(self.files), ""),
            "prompt": (len(self.prompts), ""),
            "seed": (self.plan.seeds, f"{first}-{first + self.plan.seeds - 1}:1"),
        }
        for name, (count, words) in several.items():
            if count > 1 and name not in taken:
                if free:
                    self.axes[free.pop(0)] = Axis(name, words)
                else:
                    self.complaints.append(
                        f"{name}: expected one, for all three sides have an axis; these are {count}"
                    )

    def _side(self, axis: Axis) -> Side:
        return self._tried(lambda: self._read(axis), Side(axis.name))

    def _read(self, axis: Axis) -> Side:
        if axis.kind is None:
            found = setting(axis.name)
            values = [] if found is None else sure(axis.name, found.values(axis.words))
        elif axis.name == "prompt":
            values = titles(self.prompts)
        elif axis.name == "file" and self._sweeps:
            values = sure("file", epochs(axis.words))
        elif axis.name == "file":
            values = [self._known(value) for value in axis.values()] or stems(self.files)
        else:
            values = axis.values(self.book)
        labels = [
            "without" if v == WITHOUT and axis.name == "file" else labelled(axis.name, v) for v in values
        ]
        return Side(axis.name, tuple(values), tuple(labels))

    def _known(self, value: Value) -> str:
        names = stems(self.files)
        if str(value).lower() == WITHOUT:
            return WITHOUT
        for stem, file in zip(names, self.files, strict=True):
            if value in (stem, file.name, str(file)):
                return stem
        raise Mistake(f"file = {shown(value)}: expected one of network_weights{nearest(str(value), names)}")

    def _clashes(self, names: set[str]) -> Iterator[str]:
        if not self.files and not self._sweeps and not self.plan.network_weights:
            yield "network_weights: expected a LoRA file to plot"
        if {"te_strength", "unet_strength", "strength"} <= names:
            yield "strength: expected two of strength, te_strength and unet_strength at most"
        if "block_strength" in names and "block_id" not in names:
            yield "block_strength: expected an axis block_id beside it, which says of which blocks"
        if {"block_weights", "block_id"} <= names:
            yield "block_weights: expected no axis block_id beside it"
        if self.plan.block_weights is not None:
            yield from self._weights("block_id" in names)
        none = self.plan.prompt is None and self.plan.from_file is None
        if not self.prompts and none and "prompt" not in names:
            yield "prompt: expected --prompt or --from_file"

    def _weights(self, beside_blocks: bool) -> Iterator[str]:
        """What is wrong with those of the plan itself."""
        if beside_blocks:
            yield "block_weights: expected none beside the axis block_id, whose other blocks are at others"
        try:
            self.book.weights(self.plan.block_weights)
        except ValueError as e:
            yield f"block_weights = {shown(self.plan.block_weights)}: {e}"


def _unread(grid: Grid) -> Iterator[str]:
    """What prompts say in <…> and cannot be done."""
    for place in grid.places():
        try:
            loras(tagged(grid.shot(place)))
        except ValueError as e:
            yield str(e)


# ── files and prompts ───────────────────────────────────────────────────────────────────────────────────────


def _files(plan: Plan) -> Iterator[pathlib.Path]:
    for path in plan.network_weights:
        if path.is_dir():
            there = (file for file in path.glob("*.safetensors") if file.is_file())  # and no link to nothing
            inside = sorted(there, key=lambda file: (file.stat().st_mtime, file.name))
            if not inside:
                raise Mistake(f"network_weights = {path}: expected LoRA files in it; there is none")
            yield from inside
        elif not path.is_file():
            raise Mistake(f"{path}: no such file")
        else:
            yield path


def stems(files: Sequence[pathlib.Path]) -> list[str]:
    """A name for each: that of the file, and of its folder where two are called alike."""
    names = [file.stem for file in files]
    return [
        name if names.count(name) == 1 else f"{file.parent.name}/{name}"
        for name, file in zip(names, files, strict=True)
    ]


def _prompts(plan: Plan, axis: Axis | None) -> list[Prompt]:
    """Those of the axis, or else those of the plan."""
    lines = (plan.prompt or Lines()).texts if axis is None or not axis.words else axis.values()
    try:
        found = [parse_prompt(_flagged(line, plan), plan.sampler) for line in lines]
    except ValueError as e:
        raise Mistake(str(e)) from e
    if plan.from_file is not None and (axis is None or not axis.words):
        usual = {"width": plan.width, "height": plan.height, "sample_steps": plan.steps, "scale": plan.cfg}
        found += read_prompts(plan.from_file, plan.sampler, usual)
    return _seeded(found, plan)


def _seeded(prompts: Sequence[Prompt], plan: Plan) -> list[Prompt]:
    """Each once."""
    found = [p if p.seed is not None else dataclasses.replace(p, seed=plan.seed) for p in prompts]
    return list(dict.fromkeys(found))


def _flagged(line: str, plan: Plan) -> str:
    """With what the plan has for prompts that say nothing of it, in front of what they say."""
    text, dashes, flags = f"{line} ".partition(" --")
    usual = f"--w {plan.width} --h {plan.height} --s {plan.steps} --l {plan.cfg} --d {plan.seed}"
    return f"{text} {usual}{dashes}{flags}".strip()


def titles(prompts: Sequence[Prompt]) -> list[str]:
    """A name for each: its text, with the seed where two have the same, or its number."""
    texts = [prompt.prompt for prompt in prompts]
    found = [t if texts.count(t) == 1 else f"{t} ({p.seed})" for t, p in zip(texts, prompts, strict=True)]
    return [t if found.count(t) == 1 else f"{t} [{i}]" for i, t in enumerate(found, 1)]


def _prompt(prompts: Sequence[Prompt], at: Mapping[str, Value]) -> Prompt:
    own = dict(zip(titles(prompts), prompts, strict=True))
    prompt = own[at["prompt"]] if "prompt" in at else prompts[0]
    fields = {
        "negative_prompt": "negative_prompt", "seed": "seed", "steps": "sample_steps",
        "sampler": "sample_sampler", "cfg": "scale",
    }  # fmt: skip
    return dataclasses.replace(prompt, **{field: at[name] for name, field in fields.items() if name in at})
