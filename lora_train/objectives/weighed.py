"""Losses: what an error costs, and how much each timestep counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor

from lora_train.knobs import knob
from lora_train.losses import (
    CLIP,
    debiased_weight,
    elements,
    min_snr_weight,
    p2_weight,
    per_noise,
    soft_min_snr_weight,
    thresholds,
)
from lora_train.noise import Schedule

NO_SIGNAL = (
    "divides by the signal that is left, and at the last step none is, as zero_terminal_snr has it; a model "
    "that predicts noise is trained without the one or the other"
)


@dataclasses.dataclass(frozen=True)
class Weighed:
    """What an error in a prediction costs."""

    loss_type: str = knob(
        "l2", "What an error costs: its square, its size (l1), or the square of small and the size of large "
        "ones (huber, smooth_l1).", group="loss", choices=("l2", "l1", "huber", "smooth_l1"))  # fmt: skip
    huber_schedule: str = knob(
        "snr", "Course over the timesteps of the error from which huber and smooth_l1 go straight.",
        group="loss", choices=("snr", "exponential", "constant"))  # fmt: skip
    huber_c: float = knob(
        0.1, "Error from which huber and smooth_l1 go straight; of the schedules, what noisy steps end at.",
        group="loss", low=0.0001, high=100)  # fmt: skip
    huber_scale: float = knob(
        1.0, "Times huber_c, with huber_schedule constant or exponential.", group="loss", low=0.0001,
        high=10000)  # fmt: skip
    min_snr_gamma: float | None = knob(
        None, "Cap on a step's signal-to-noise ratio in its loss weight, 5 in the paper. Empty: every step "
        "counts the same.", group="loss", low=0.1, high=1000)  # fmt: skip
    soft_min_snr: bool = knob(
        False, "Let min_snr_gamma set in smoothly rather than at one step.", group="loss")  # fmt: skip
    debiased_estimation_loss: bool = knob(
        False, "Weigh a step by 1 over the root of its signal-to-noise ratio, so that noisy steps count "
        "more.", group="loss")  # fmt: skip
    p2_gamma: float | None = knob(
        None, "P2: steps with little noise count less, by (1 + signal-to-noise ratio) to this power; 0.5 or "
        "1 in the paper. Empty: off.", group="loss", low=0, high=10)  # fmt: skip
    scale_v_pred_loss_like_noise_pred: bool = knob(
        False, "Weigh the steps of a model that predicts v as if it predicted noise.",
        group="loss")  # fmt: skip
    v_pred_like_loss: float | None = knob(
        None, "For models that predict noise: so much of the loss is added once more, weighed as if it "
        "predicted v. Empty: none.", group="loss", low=0, high=100)  # fmt: skip

    def check(self) -> Iterable[str]:
        if self.soft_min_snr and self.min_snr_gamma is None:
            yield "soft_min_snr: expected min_snr_gamma beside it, which it softens; 5 is usual"

    def refusals(self, prediction: str, last_is_noise: bool) -> list[str]:
        """What is undefined for a model that predicts "epsilon" or "v"; complaints by their last word.

        Args:
            last_is_noise: whether no signal is left at its last step.
        """
        if prediction == "v":
            if self.v_pred_like_loss:
                return ["v_pred_like_loss: the model predicts v already; leave it empty"]
            return []
        said = []
        if self.scale_v_pred_loss_like_noise_pred:
            said.append("scale_v_pred_loss_like_noise_pred: the model predicts noise; leave it out")
        inverse = ("min_snr_gamma", "debiased_estimation_loss", "v_pred_like_loss")
        return said + [f"{name}: {NO_SIGNAL}" for name in inverse if last_is_noise and vars(self)[name]]

    def costs(self) -> dict[str, object]:
        """As sd-scripts writes it down."""
        return {
            "ss_min_snr_gamma": self.min_snr_gamma,
            "ss_debiased_estimation": self.debiased_estimation_loss,
            "ss_loss_type": self.loss_type,
            "ss_huber_schedule": self.huber_schedule,
            "ss_huber_scale": self.huber_scale,
            "ss_huber_c": self.huber_c,
        }

    def elements(self, error: Tensor, schedule: Schedule, t: Tensor) -> Tensor:
        """The loss of each element of an error [B, C, h, w] at timesteps [B]."""
        if self.loss_type in ("l1", "l2"):
            return elements(self.loss_type, error)
        c = thresholds(
            self.huber_schedule, t.cpu(), schedule.snr(t), steps=len(schedule), c=self.huber_c,
            scale=self.huber_scale)  # fmt: skip
        return elements(self.loss_type, error, c)

    def weights(self, schedule: Schedule, t: Tensor) -> Tensor | None:
        """[B] float32 on the CPU, of samples at timesteps [B]; None: all the same."""
        snr, told = schedule.snr(t), schedule.prediction
        found = []
        if self.min_snr_gamma is not None:
            capped = soft_min_snr_weight if self.soft_min_snr else min_snr_weight
            found.append(capped(snr, self.min_snr_gamma, told))
        if self.debiased_estimation_loss:
            found.append(debiased_weight(snr, told))
        if self.p2_gamma:
            found.append(p2_weight(snr, self.p2_gamma, told))
        if self.scale_v_pred_loss_like_noise_pred:
            found.append(per_noise(snr.clamp(max=CLIP), "v"))
        if self.v_pred_like_loss:
            found.append(1 + self.v_pred_like_loss / per_noise(snr.clamp(max=CLIP), "v"))
        return torch.stack(found).prod(0) if found else None
