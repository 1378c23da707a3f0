"""The steps of a picture that the WebUI draws, as it counts them itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lora_train.host import Stepped


@contextlib.contextmanager
def telling(stepped: Stepped | None) -> Iterator[None]:
    """Inside `with` it is called before each call of the denoiser, with the step there."""
    from modules import script_callbacks

    if stepped is None:
        yield
        return

    def called(params: script_callbacks.CFGDenoiserParams) -> None:
        stepped(params.sampling_step)

    script_callbacks.on_cfg_denoiser(called)
    try:
        yield
    finally:
        script_callbacks.remove_callbacks_for_function(called)
