"""Pictures of a set beside each other: which are the same, nearly so, and whether all are much alike."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lora_train.data import likeness
from lora_train.data.memory import Known
from lora_train.workshop.kinds import Finding
from lora_train.workshop.opened import Opened

SIMILAR = 0.8  # mean correlation of the cells of two pictures. Six views of one toy from one side: 0.96; 245
# faces of emoji 0.67, emoji of all kinds on white 0.32 to 0.44, 100 faces of people 0.33, drawings 0.20,
# photographs 0
ENOUGH = 4  # pictures of which that can be said


def repeated(
    pictures: Mapping[str, Known], digests: Mapping[str, str], said: Mapping[str, str]
) -> Iterator[Finding]:
    """Groups with the same content, and those that look alike, in which each content stands once.

    Args:
        digests: of those whose files have another one's size.
        said: captions.
    """
    contents: dict[str, list[str]] = collections.defaultdict(list)
    for name in pictures:
        contents[digests.get(name) or f"/{name}"].append(name)
    for group in contents.values():
        if len(group) > 1:
            yield Finding("same", tuple(group))
            if len({said.get(name, "") for name in group}) > 1:
                yield Finding("differing", tuple(group), {"captions": [said.get(name, "") for name in group]})
    cells = {group[0]: pictures[group[0]].cells for group in contents.values()}
    yield from near({name: own for name, own in cells.items() if own is not None})


def near(cells: Mapping[str, bytes]) -> Iterator[Finding]:
    """Groups of copies; and of copies some of which are mirrored."""
    plain = [tuple(group) for group in likeness.copies(cells)]
    yield from (Finding("near", group) for group in plain)
    leader = {name: group[0] for group in plain for name in group}
    both = {(name, False): own for name, own in cells.items()}
    both |= {(name, True): likeness.turned(own) for name, own in cells.items()}
    told: set[frozenset[str]] = set()
    for group in likeness.copies(both):
        if len({way for _, way in group}) < 2:
            continue  # the bounds are a little others for mirrored ones, which are near to each other, too
        ways: dict[str, set[bool]] = collections.defaultdict(set)
        for name, way in group:
            ways[name].add(way)
        if len({leader.get(name, name) for name in ways}) < 2 or frozenset(ways) in told:
            continue  # all of it is near already; or the same group seen from the other side
        told.add(frozenset(ways))
        yield Finding("mirrored", tuple(ways))


def best(group: Sequence[str], pictures: Mapping[str, Known], opened: Opened) -> str:
    """The one that is kept: no link to another, with a caption, then the largest, then the first."""

    def worth(name: str) -> tuple[bool, bool, int, int]:
        known, own = pictures[name], not opened.path(name).is_symlink()
        return own, bool(opened.entries[name].text), (known.width or 0) * (known.height or 0), known.bytes

    return max(group, key=worth)


def similar(cells: Sequence[bytes]) -> float | None:
    """Mean correlation of two pictures' cells; None: too few to say."""
    if len(cells) < ENOUGH:
        return None
    seen, count = likeness.plain(cells), len(cells)
    total = float(np.square(seen.sum(0, dtype=np.float64)).sum())  # of all pairs, each with itself as well
    own = float(np.square(seen, dtype=np.float64).sum())
    return (total - own) / (count * (count - 1))
