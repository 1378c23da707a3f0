"""`similar`: which pictures of a folder are much alike, and which are unlike all others."""

from __future__ import annotations

import dataclasses

import numpy as np

from lora_train.knobs import knob
from lora_train.tools.tool import Report, Told, unheard
from lora_train.workshop.features import features
from lora_train.workshop.work import Look

SHOWN = 20  # groups, and pictures of a group, that are printed


@dataclasses.dataclass(frozen=True)
class Similar(Look):
    """Find pictures that are much alike, and those that are unlike all others."""

    least: float = knob(
        0.85, "From which likeness on pictures count as alike. Of photos, one that was mirrored, brightened "
        "or cropped to three quarters of its sides has 0.8 to 1, the next of a series 0.9, and one of other "
        "things less than 0.5; drawings of one hand are more alike.", group="pictures", low=0.1, high=1,
        basic=True)  # fmt: skip
    odd: float = knob(
        0.4, "Below which likeness to all others a picture counts as odd.", group="pictures", low=0,
        high=1)  # fmt: skip
    device: str = knob(
        "auto", "Where it is computed; auto takes a graphics card if there is one.", group="model",
        choices=("auto", "cpu", "cuda"))  # fmt: skip

    light = False

    def run(self, told: Told = unheard) -> Report:
        opened = self.opened()
        seen = features(opened, self.chosen(opened), told, device=self.device)
        near, groups = seen.nearest(), seen.groups(self.least)
        odd = sorted((found[1], name) for name, found in near.items() if found[1] < self.odd)
        alike = sum(map(len, groups))
        lines = [f"{len(seen.names)} pictures, {alike} of them in {len(groups)} groups that are alike"]
        lines += [", ".join([f"  {g[0]}", *g[1:SHOWN], *["..."] * (len(g) > SHOWN)]) for g in groups[:SHOWN]]
        lines += [f"{len(odd)} unlike all others:"] if odd else []
        lines += [f"  {name} ({how:.2f})" for how, name in odd[:SHOWN]]
        facts = {
            "pictures": len(seen.names),
            "middle": float(np.median([how for _, how in near.values()])) if near else None,
            "groups": groups,
            "odd": [{"name": name, "likeness": how} for how, name in odd],
            "nearest": {name: {"name": other, "likeness": how} for name, (other, how) in near.items()},
        }
        return Report(tuple(lines), facts)
