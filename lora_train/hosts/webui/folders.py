"""Where things are kept beside the WebUI's own, and which settings of it say so."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lora_train.host import Folders

LORAS, DESK, SENT = "lora_train_loras", "lora_train_desk", "lora_train_sent"


def remote() -> bool:
    """Whether the WebUI listens to other machines: --listen, --share, --ngrok, --server-name."""
    from modules import shared

    return bool(shared.cmd_opts.webui_is_non_local)


def folders() -> Folders:
    """Everything is where the WebUI has it, or below one folder of ours beside.

    Who asks from another machine could also set the settings, so then they do not count; folders to read
    pictures from are named with --gradio-allowed-path.
    """
    from modules import paths, sd_models, sd_vae, shared

    from lora_train.host import Folders

    flags = shared.cmd_opts
    desk = said(DESK) or pathlib.Path(paths.data_path, "lora_train")
    more = (getattr(flags, name, None) for name in ("ckpt_dir", "vae_dir"))  # Forge has others
    models = (sd_models.model_path, sd_vae.vae_path, *more)
    data = pathlib.Path(paths.data_path).resolve()
    named = [pathlib.Path(p) for p in flags.gradio_allowed_path or ()]  # the WebUI adds its data folder
    pictures = (desk / "pictures", *(p for p in named if p.resolve() != data)) if remote() else ()
    return Folders(
        loras=said(LORAS) or pathlib.Path(flags.lora_dir), desk=desk, pictures=pictures,
        classes=pathlib.Path(paths.models_path, "lora_train"),
        models=tuple(pathlib.Path(p) for p in models if p))  # fmt: skip


def said(name: str) -> pathlib.Path | None:
    """A folder from the settings; None where it is left empty."""
    from modules import shared

    text = str(shared.opts.data.get(name) or "").strip().strip("\"'").strip()
    return None if remote() or not text else pathlib.Path(text).expanduser()


def sent() -> pathlib.Path:
    """Where `Send to dataset` puts pictures."""
    return said(SENT) or folders().desk / "pictures" / "sent"
