"""Options of optimizers and learning rates."""

from __future__ import annotations

from lora_train.compat.rules import Refused, Rules, Translated, Values, ignored, named, pairs
from lora_train.errors import Mistake
from lora_train.values import shown


def _optimizer_args(value: object) -> Values:
    return {f"optimizer.{name}": text for name, text in pairs(value).items()}


MOST = 2  # text encoders of a model


def _text_encoder_lr(value: object) -> Values:
    """Two are for SDXL's two; two that are the same are one, as kohya_ss writes it for every model."""
    rates = list(value) if isinstance(value, list | tuple) else [value]
    if not rates or len(rates) > MOST:
        raise Mistake(f"text_encoder_lr = {shown(value)}: expected a rate, or two for SDXL's text encoders")
    first, last = rates[0], rates[-1]
    second = {} if str(first) == str(last) else {"lr.text_encoder_lr2": last}
    return {"lr.text_encoder_lr": first, **second}


RATES: Rules = {
    "optimizer_args": Translated(_optimizer_args),
    "optimizer_type": named("optimizer.kind"),
    "text_encoder_lr": Translated(_text_encoder_lr),
    **ignored(
        "no schedule here has it", "lr_scheduler_num_cycles", "lr_scheduler_power", "lr_decay_steps",
        "lr_scheduler_timescale", "lr_scheduler_min_lr_ratio", off=("1", "1.0")),
    **dict.fromkeys(
        (
            "lr_scheduler_type", "lr_scheduler_args", "use_8bit_adam", "use_lion_optimizer",
            "fused_backward_pass",
        ),
        Refused(),
    ),
}  # fmt: skip
