"""What a person may not change of the model while a run has it."""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from collections.abc import Iterator

from lora_train.errors import Mistake

# settings of the WebUI that load the model, or change its classes, when they are chosen
OF_THE_MODEL = (
    "sd_model_checkpoint", "sd_vae", "sd_vae_overrides_per_model_preferences", "cross_attention_optimization",
    "fp8_storage", "cache_fp16_weight",
)  # fmt: skip
BUSY = "a LoRA is in training on the loaded model; pause or stop it in the tab Training, then choose again"

SECONDS = 4.0  # that it can be read: the page takes it away when the old choice is back


@contextlib.contextmanager
def held() -> Iterator[None]:
    """A choice is refused at once, and the page shows the old one again. The WebUI would wait with it for its
    lock, until the run has ended, and show it as made."""
    from modules import shared

    labels = shared.opts.data_labels
    before = {name: labels[name].onchange for name in OF_THE_MODEL if name in labels}
    for name in before:
        labels[name].onchange = functools.partial(refused, name, getattr(shared.opts, name))
    try:
        yield
    finally:
        for name, onchange in before.items():
            labels[name].onchange = onchange


def refused(name: str, own: object) -> None:
    """In the WebUI, which then puts the old value back.

    Raises:
        Mistake: always.
    """
    import gradio
    from modules import shared

    shared.opts.data[name] = own  # at once, or a sample that is being drawn gives the new one back later
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where nobody looks at a page, gradio says it to Python
        gradio.Warning(BUSY[0].upper() + BUSY[1:] + ".")
    time.sleep(SECONDS)
    raise Mistake(BUSY)
