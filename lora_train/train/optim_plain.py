"""Optimizers that take a rate and follow it."""

from __future__ import annotations

import dataclasses

import torch

from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.train.optimizer import Decaying, Dividing, Moments, Rolling


class AdamW(Dividing):
    """Adam with decoupled weight decay (arXiv:1711.05101), torch's own."""

    CLASS = "torch.optim.AdamW"
    USUAL = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}

    def make(self, groups: list[dict]) -> torch.optim.Optimizer:
        # the fused kind leaves a step out where a GPU finds it not finite, and nobody has to wait to say so
        on_gpu = all(p.is_cuda for group in groups for p in group["params"])
        if not on_gpu or self.optimizer_args:
            return super().make(groups)
        return torch.optim.AdamW(groups, **self.arguments(), fused=True)


class SGDNesterov(Rolling):
    """SGD with Nesterov's momentum, torch's own."""

    CLASS = "torch.optim.SGD"
    RATE = 0.01
    USUAL = {"momentum": 0.9, "nesterov": True}


class Lion(Moments):
    """Steps by the sign of the momentum (Chen et al. 2023, arXiv:2302.06675). A third of AdamW's rate."""

    CLASS = "lion_pytorch.Lion"
    PIP = "lion-pytorch"
    RATE = 3e-5
    USUAL = {"weight_decay": 0.05}


class CAME(Moments):
    """Adafactor with confidence (Luo et al. 2023, arXiv:2307.02047)."""

    CLASS = "came_pytorch.CAME.CAME"
    PIP = "came-pytorch"
    RATE = 2e-4
    BETAS = 3


class AdEMAMix(Dividing):
    """AdamW with a second, slow momentum (Pagliardini et al. 2024, arXiv:2409.03137)."""

    CLASS = "pytorch_optimizer.AdEMAMix"
    PIP = "pytorch-optimizer"
    BETAS = 3
    USUAL = {"weight_decay": 0.01, "weight_decouple": True}


class Tiger(Decaying):
    """Lion with one number to a weight less (Su 2023)."""

    CLASS = "pytorch_optimizer.Tiger"
    PIP = "pytorch-optimizer"
    RATE = 3e-5


class Muon(Rolling):
    """Steps that are orthogonal matrices (Jordan et al. 2024); what is no matrix learns by AdamW."""

    CLASS = "pytorch_optimizer.Muon"
    PIP = "pytorch-optimizer"
    RATE = 2e-3

    def make(self, groups: list[dict]) -> torch.optim.Optimizer:
        split = []
        for group in groups:
            flat = [p for p in group["params"] if p.ndim < len("hw")]
            deep = [p for p in group["params"] if p.ndim >= len("hw")]
            split += [
                {**group, "params": params, "use_muon": muon}
                for params, muon in ((deep, True), (flat, False))
                if params
            ]
        return super().make(split)


@dataclasses.dataclass(frozen=True)
class Custom(Dividing, Rolling):
    """Any class of torch's kind."""

    optimizer_class: str | None = knob(
        None, "Class of the optimizer, as module.Class; without a module it is torch's.", group="optimizer"
    )

    RATE = BETAS = None

    def check(self) -> object:
        yield from super().check()
        if not self.optimizer_class:
            yield "optimizer_class: expected a class, such as pytorch_optimizer.SOAP"

    def path(self) -> str:
        name = self.optimizer_class or ""
        return name if "." in name else f"torch.optim.{name}"

    def unready(self) -> list[str]:
        try:
            self.loaded()
        except Mistake as e:
            return [f"optimizer.optimizer_class = {e}"]
        return super().unready()
