"""Options of noise, timesteps, losses and masks."""

from __future__ import annotations

from lora_train.compat.rules import Rules, Translated, Values, off, unless_off
from lora_train.errors import Mistake
from lora_train.values import shown


def _kind(value: object) -> Values:
    """kohya_ss' own, whose numbers are those of the one kind or the other."""
    if str(value).lower() not in ("original", "multires"):
        raise Mistake(f"noise_offset_type = {shown(value)}: expected Original or Multires")
    return {}


def _attributes(value: object) -> Values:
    """A table of a dataset file, in which sd-scripts looks for one name."""
    if off(value):
        return {}
    if not isinstance(value, dict):
        raise Mistake(f"custom_attributes = {shown(value)}: expected a table")
    if lost := [name for name in value if name != PRESERVED]:
        raise Mistake(f"custom_attributes.{lost[0]}: no such attribute; expected {PRESERVED}")
    return {f"data.{PRESERVED}": value[PRESERVED]}


PRESERVED = "diff_output_preservation"

LOSS: Rules = {
    "custom_attributes": Translated(_attributes),
    "min_snr_gamma": unless_off("objective.min_snr_gamma"),
    "noise_offset_type": Translated(_kind),
    "adaptive_noise_scale": unless_off("objective.adaptive_noise_scale"),
    "multires_noise_iterations": unless_off("objective.multires_noise_iterations"),
    "ip_noise_gamma": unless_off("objective.ip_noise_gamma"),
    "v_pred_like_loss": unless_off("objective.v_pred_like_loss"),
    "zero_terminal_snr": unless_off("model.zero_terminal_snr"),  # else the file's own word holds
}
