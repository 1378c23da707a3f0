"""The table of optimizers. The arithmetic is their libraries'."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lora_train.train import optim_adaptive as adaptive
from lora_train.train import optim_small as small
from lora_train.train.optim_plain import CAME, AdamW, AdEMAMix, Custom, Lion, Muon, SGDNesterov, Tiger
from lora_train.train.optimizer import Optimizer

__all__ = ["OPTIMIZERS", "AdamW", "Custom", "Optimizer", "named"]

OPTIMIZERS: dict[str, type[Optimizer]] = {
    cls.kind(): cls
    for cls in (
        AdamW, small.AdamW8bit, small.PagedAdamW, small.PagedAdamW8bit, small.PagedAdamW32bit,
        Lion, small.Lion8bit, small.PagedLion8bit, SGDNesterov, small.SGDNesterov8bit,
        AdEMAMix, small.AdEMAMix8bit, small.PagedAdEMAMix8bit, adaptive.Adafactor, CAME, Tiger, Muon,
        adaptive.DAdaptation, adaptive.DAdaptAdamPreprint, adaptive.DAdaptAdaGrad, adaptive.DAdaptAdam,
        adaptive.DAdaptAdan, adaptive.DAdaptAdanIP, adaptive.DAdaptLion, adaptive.DAdaptSGD,
        adaptive.Prodigy, adaptive.ProdigyPlusScheduleFree, adaptive.AdamWScheduleFree,
        adaptive.RAdamScheduleFree, adaptive.SGDScheduleFree, Custom,
    )
}  # fmt: skip


def named(text: str) -> Mapping[str, object]:
    """An optimizer by sd-scripts' word for it, by `module.Class`, or by the name of a class of torch's."""
    package, dot, _ = text.partition(".")
    name = text.rpartition(".")[2]
    if not dot:
        kind = name.lower()
        if kind in OPTIMIZERS:
            return {"optimizer.kind": kind}
        known = {n.lower(): n for n in dir(torch.optim) if isinstance(vars(torch.optim).get(n), type)}
        if kind not in known:
            return {"optimizer.kind": text}  # refused there, with those that there are
        return {"optimizer.kind": "custom", "optimizer.optimizer_class": known[kind]}
    for kind, cls in OPTIMIZERS.items():
        same = cls.CLASS.partition(".")[0] == package and cls.CLASS.rpartition(".")[2] == name
        if same and cls is not SGDNesterov:  # torch's SGD has no momentum unless it is said
            return {"optimizer.kind": kind}
    return {"optimizer.kind": "custom", "optimizer.optimizer_class": text}
