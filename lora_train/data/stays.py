"""What is to stay as it is while something is learned: what pictures count for that, and what captions."""

from __future__ import annotations

import dataclasses
import re

from lora_train.knobs import knob


@dataclasses.dataclass(frozen=True)
class StayRules:
    """What of a folder is held to what the model makes of it without the adapter."""

    diff_output_preservation: bool = knob(
        False, "Learn from these pictures nothing but what the model says of them without the adapter, so "
        "that it goes on saying so. A second prediction in each step.", group="regularisation")  # fmt: skip
    diff_output_preservation_class: str | None = knob(
        None, "Word such as dog that takes the place of trigger_word in each caption once more: of that the "
        "model goes on saying what it says without the adapter. Two more predictions in each step. Empty: "
        "off.", group="regularisation")  # fmt: skip

    def classed(self, text: str, call: str | None) -> str | None:
        """The caption with the class's word for the trigger word; None where there is nothing to replace.

        Args:
            text: as the text encoder gets it.
            call: the trigger word.
        """
        word = self.diff_output_preservation_class
        if not word or not call or self.diff_output_preservation:
            return None
        found = re.sub(rf"(?<!\w){re.escape(call)}(?!\w)", lambda _: word, text, flags=re.IGNORECASE)
        return None if found == text else found


@dataclasses.dataclass(frozen=True)
class Prior:
    """What regularisation pictures count."""

    prior_loss_weight: float = knob(
        1.0, "Weight of regularisation pictures in the loss.", group="regularisation", low=0,
        high=100)  # fmt: skip
    prior_loss_scale: bool = knob(
        False, "Let prior_loss_weight go to prior_loss_weight_min in a straight line.",
        group="regularisation")  # fmt: skip
    prior_loss_target: int = knob(
        100, "Epochs until prior_loss_scale has come to its end.", group="regularisation", low=1,
        high=1_000_000, unit="epochs")  # fmt: skip
    prior_loss_weight_min: float = knob(
        0.1, "What prior_loss_scale ends at.", group="regularisation", low=0, high=100)  # fmt: skip

    def prior(self, epoch: int) -> float:
        """Their weight in an epoch, from 0."""
        if not self.prior_loss_scale:
            return self.prior_loss_weight
        done = min(1.0, epoch / self.prior_loss_target)
        return self.prior_loss_weight + done * (self.prior_loss_weight_min - self.prior_loss_weight)
