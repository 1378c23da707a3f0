"""Optimizers that find their learning rate, or their schedule, by themselves."""

from __future__ import annotations

import dataclasses

from lora_train.train.optimizer import Decaying, Dividing, Moments, Optimizer, Rolling, usually


@dataclasses.dataclass(frozen=True)
class Adapting(Optimizer):
    """Those that estimate how far away the solution is, d, and step by it; one rate for all, about 1."""

    d0: float | None = usually("The first estimate of d.", low=1e-30, high=1)

    RATE = 1.0
    ADAPTS = ALONE = True


@dataclasses.dataclass(frozen=True)
class Growing(Adapting):
    """Those whose d can be kept from growing fast."""

    growth_rate: float | None = usually("Times that d may grow by in a step; 1.02 is a slow start.", low=1)


@dataclasses.dataclass(frozen=True)
class Decoupling(Optimizer):
    """Those that can shrink weights as AdamW does, or as Adam."""

    decouple: bool | None = usually("Shrink weights as AdamW does, apart from the gradient.")


@dataclasses.dataclass(frozen=True)
class Correcting(Optimizer):
    """Those that can leave Adam's correction of the first steps out."""

    use_bias_correction: bool | None = usually("Correct the running means of the first steps, as Adam does.")


# D-Adaptation: Defazio and Mishchenko 2023, arXiv:2301.07733
COUPLED = {"decouple": True, "weight_decay": 0.01}


@dataclasses.dataclass(frozen=True)
class DAdaptAdam(Growing, Decoupling, Correcting, Dividing):
    """D-Adaptation of Adam."""

    CLASS = "dadaptation.DAdaptAdam"
    USUAL = COUPLED


@dataclasses.dataclass(frozen=True)
class DAdaptAdamPreprint(Growing, Decoupling, Dividing):
    """D-Adaptation of Adam as in the paper's first version."""

    CLASS = "dadaptation.experimental.DAdaptAdamPreprint"
    USUAL = COUPLED


class DAdaptation(DAdaptAdamPreprint):
    """sd-scripts' name for DAdaptAdamPreprint."""


@dataclasses.dataclass(frozen=True)
class DAdaptAdaGrad(Growing, Rolling):
    """D-Adaptation of AdaGrad."""

    CLASS = "dadaptation.DAdaptAdaGrad"


@dataclasses.dataclass(frozen=True)
class DAdaptSGD(Growing, Rolling):
    """D-Adaptation of SGD."""

    CLASS = "dadaptation.DAdaptSGD"


@dataclasses.dataclass(frozen=True)
class DAdaptAdan(Growing, Dividing):
    """D-Adaptation of Adan."""

    CLASS = "dadaptation.DAdaptAdan"
    BETAS = 3


class DAdaptAdanIP(DAdaptAdan):
    """D-Adaptation of Adan, with d from inner products."""

    CLASS = "dadaptation.experimental.DAdaptAdanIP"


@dataclasses.dataclass(frozen=True)
class DAdaptLion(Adapting, Moments):
    """D-Adaptation of Lion."""

    CLASS = "dadaptation.DAdaptLion"
    USUAL = {"weight_decay": 0.01}


@dataclasses.dataclass(frozen=True)
class Steering(Adapting):
    """Those whose estimate of d can be scaled."""

    d_coef: float | None = usually("What d is multiplied with; the way to tune it.", low=1e-6, high=1000)


@dataclasses.dataclass(frozen=True)
class Prodigy(Steering, Growing, Decoupling, Correcting, Dividing):
    """D-Adaptation that is faster to find d (Mishchenko and Defazio 2023, arXiv:2306.06101)."""

    safeguard_warmup: bool | None = usually("Keep the rate of a warm-up out of the estimate of d.")

    CLASS = "prodigyopt.Prodigy"
    USUAL = {
        "betas": (0.9, 0.99), "weight_decay": 0.01, "decouple": True, "d_coef": 2.0,
        "use_bias_correction": True, "safeguard_warmup": True,
    }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ProdigyPlusScheduleFree(Steering, Correcting, Dividing):
    """Prodigy without a schedule, d for each group of parameters by itself."""

    CLASS = "prodigyplus.ProdigyPlusScheduleFree"
    PIP = "prodigy-plus-schedule-free"
    ALONE = False
    FREE = True


# Schedule-free: Defazio et al. 2024, arXiv:2405.15682


@dataclasses.dataclass(frozen=True)
class AdamWScheduleFree(Dividing):
    """AdamW that averages its weights in place of a schedule."""

    CLASS = "schedulefree.AdamWScheduleFree"
    FREE = True
    RATE = 3e-4


@dataclasses.dataclass(frozen=True)
class RAdamScheduleFree(Dividing):
    """RAdam that averages its weights in place of a schedule; it needs no warm-up."""

    CLASS = "schedulefree.RAdamScheduleFree"
    FREE = True
    RATE = 3e-4


@dataclasses.dataclass(frozen=True)
class SGDScheduleFree(Rolling):
    """SGD that averages its weights in place of a schedule."""

    CLASS = "schedulefree.SGDScheduleFree"
    FREE = True
    RATE = 0.1


@dataclasses.dataclass(frozen=True)
class Adafactor(Decaying):
    """Adam with less memory (Shazeer and Stern 2018, arXiv:1804.04235), transformers' own."""

    relative_step: bool | None = usually(
        "Let Adafactor choose the rate by the number of the step; rates and their course are then not used."
    )
    scale_parameter: bool | None = usually("Multiply the rate with the size of the weights.")
    warmup_init: bool | None = usually("Begin with a low rate, where Adafactor chooses it.")
    clip_threshold: float | None = usually("Size to which a larger step is cut.", low=0, high=1e6)

    CLASS = "transformers.optimization.Adafactor"

    def check(self) -> object:
        yield from super().check()
        if self.relative_step is False and self.warmup_init:
            yield "warmup_init = true: is of the rate that Adafactor chooses; leave out relative_step = false"

    @property
    def chooses(self) -> bool:
        return self.relative_step is not False

    def filled(self) -> Optimizer:
        """As sd-scripts it chooses the rate itself; what is given along with relative_step=False in all the
        presets there are is so then."""
        usual = {"relative_step": self.chooses, "scale_parameter": self.chooses, "warmup_init": False}
        return dataclasses.replace(self, **{k: v for k, v in usual.items() if vars(self)[k] is None})

    def rate(self, groups: list[dict]) -> float | None:
        return None if self.chooses else super().rate(groups)


__all__ = [
    "Adafactor", "AdamWScheduleFree", "DAdaptAdaGrad", "DAdaptAdam", "DAdaptAdamPreprint", "DAdaptAdan",
    "DAdaptAdanIP", "DAdaptLion", "DAdaptSGD", "DAdaptation", "Prodigy", "ProdigyPlusScheduleFree",
    "RAdamScheduleFree", "SGDScheduleFree",
]  # fmt: skip
