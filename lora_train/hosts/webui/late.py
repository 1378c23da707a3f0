"""What of ours takes part in the WebUI's own pictures, loaded when the first of it is asked for: the door has
to cost nothing at the WebUI's start."""

from __future__ import annotations

import sys
from typing import Any

BLOCKWISE = "lora_train.hosts.webui.blockwise"


def ready() -> None:
    """For `on_before_ui`, when all scripts are loaded and their forms are not made."""
    from lora_train.hosts.webui import xyz

    xyz.ready()


def started(demo: object, app: object) -> None:
    """For `on_app_started`: the Lora extension may answer `on_before_ui` after us."""
    from lora_train.hosts.webui import blockwise

    blockwise.ready()


def stepped(params: Any) -> None:
    """For `on_cfg_denoiser`."""
    if (blockwise := sys.modules.get(BLOCKWISE)) is not None:
        blockwise.stepped(params)
