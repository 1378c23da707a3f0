"""Stages of a job: runs one after the other, each from the adapter of the one before."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping

from lora_train.errors import Mistake
from lora_train.job import assemble, subject

Values = dict[str, object]
WEIGHTS, NAME, RESUME = "network.weights", "output.output_name", "place.resume"
OURS = {  # what a stage cannot say, for it follows from the others
    WEIGHTS: "the stage before it",
    NAME: "the job's",
    "output.output_dir": "the job's",
    RESUME: "the job's",
}


def staged(values: Values, stages: list[Values]) -> list[Values]:
    """The values of each run. All but the last are saved in full precision, under names of their own.

    Args:
        stages: what each sets in place of the job's, by path.

    Raises:
        Mistake: a stage sets what follows from the others, or its settings cannot be.
    """
    job, output, _ = assemble({path: value for path, value in values.items() if path != RESUME})
    runs: list[Values] = []
    complaints = [
        f"stages.{i}.{path}: is {OURS[path]}; leave it out"
        for i, stage in enumerate(stages)
        for path in stage
        if path in OURS
    ]
    if complaints:
        raise Mistake("\n".join(complaints))
    for i, stage in enumerate(stages):
        own: Values = {}
        if i + 1 < len(stages):
            own = {NAME: f"{output.output_name}-stage{i + 1}", "output.save_precision": "float"}
            own |= {"output.save_checkpoint": False} if "output.save_checkpoint" not in stage else {}
        if i:
            own[WEIGHTS] = output.output_dir / f"{output.output_name}-stage{i}.safetensors"
        runs.append(_fitting({**values, **stage, **own}, {*stage, *own}, f"stages.{i}: "))
    return runs


def _fitting(values: Values, own: set[str], lead: str) -> Values:
    """Without the job's settings that belong to another kind than a stage has chosen."""
    try:
        assemble(values)
    except Mistake as e:
        lost = {subject(line) for line in str(e).splitlines() if " belongs to " in line} - own
        if not lost:
            raise Mistake("\n".join(lead + line for line in str(e).splitlines())) from e
        return _fitting({path: value for path, value in values.items() if path not in lost}, own, lead)
    return values


def left(runs: list[Values], before: Callable[[pathlib.Path], Mapping[str, object]]) -> list[Values]:
    """The runs that are still to be made: from the one that a state is of, if it is to be resumed.

    Args:
        before: the values inside a state.

    Raises:
        Mistake: the state is of none of them.
    """
    resume = runs[0].get(RESUME)
    if not resume or len(runs) == 1:
        return runs
    name = before(pathlib.Path(str(resume))).get(NAME)
    names = [assemble(run)[1].output_name for run in runs]
    if name not in names:
        raise Mistake(f"{RESUME} = {resume}: is of {name}; expected a state of {', '.join(names)}")
    first, *others = runs[names.index(name) :]
    return [first, *({**run, RESUME: None} for run in others)]
