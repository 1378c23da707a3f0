"""Options of optimizers and learning rates."""

from __future__ import annotations

from lora_train.compat.rules import Ignored, Rules, Translated, Values, off, pairs
from lora_train.errors import Mistake
from lora_train.knobs import settings
from lora_train.values import shown


def _optimizer_args(value: object) -> Values:
    """What is a setting of its own goes there; the rest to the class as it stands. `eps` is both: two numbers
    are of Adafactor and its like."""
    from lora_train.train.optim import OPTIMIZERS  # which loads torch, and help needs none

    known = {s.path for kind in OPTIMIZERS.values() for s in settings(kind, "optimizer.")}
    found: Values = {}
    more = []
    for name, text in pairs(value).items():
        if f"optimizer.{name}" not in known or (name == "eps" and "," in text):
            more.append(f"{name}={text}")
        else:
            found[f"optimizer.{name}"] = text
    return {**found, "optimizer.optimizer_args": more} if more else found


def _optimizer_type(value: object) -> Values:
    from lora_train.train.optim import named

    return dict(named(str(value))) if value else {}


def _flagged(kind: str) -> Translated:
    return Translated(lambda value: {} if off(value) else {"optimizer.kind": kind})


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
    "optimizer_type": Translated(_optimizer_type),
    "use_8bit_adam": _flagged("adamw8bit"),
    "use_lion_optimizer": _flagged("lion"),
    "text_encoder_lr": Translated(_text_encoder_lr),
    "fused_backward_pass": Ignored("it saves the memory of gradients, of which adapters have few"),
}  # fmt: skip
