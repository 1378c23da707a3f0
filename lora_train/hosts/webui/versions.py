"""Which WebUI this is, and what differs between them: the one file that knows versions.

AUTOMATIC1111's is trained in from 1.8 on; what its older ones differ in stands beside the lines below. Forge,
reForge and the like share its `modules` as far as our tab needs them, but keep the model in a backend of
their own.
"""

from __future__ import annotations

import pathlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


# a top-level package that only this WebUI has -> its name
BACKENDS = {"backend": "Forge", "ldm_patched": "reForge"}
OLDEST = (1, 8)  # 1.6 and 1.7 pin torch 2.0 and safetensors 0.3, with which nothing here is tried


def unsupported() -> str | None:
    """Why nothing can be trained in this WebUI, as a sentence; None where it can be tried."""
    from modules import paths

    webui = pathlib.Path(paths.script_path)
    elsewhere = "lora-train ui opens the same window on its own, and its LoRAs work here"
    if name := backend(webui):
        return f"training inside {name} is not supported yet, for it has a backend of its own; {elsewhere}"
    release = released(webui)
    if release and release < OLDEST:
        said, oldest = (".".join(map(str, parts)) for parts in (release, OLDEST))
        return (
            f"training inside WebUI {said} is not supported; update it to {oldest} or later, or {elsewhere}"
        )
    return None


def backend(webui: pathlib.Path) -> str | None:
    """Whose model it is where it is not AUTOMATIC1111's. Older Forges look like reForge."""
    if not (webui / "modules_forge").is_dir():
        return None
    return next((name for folder, name in BACKENDS.items() if (webui / folder).is_dir()), "this WebUI")


def released(webui: pathlib.Path) -> tuple[int, ...] | None:
    """The version that the changelog begins with, such as (1, 10, 1): a folder need not be a git clone."""
    try:
        with (webui / "CHANGELOG.md").open(encoding="utf-8") as file:
            found = re.match(r"#+\s*v?(\d+)\.(\d+)(?:\.(\d+))?", next(filter(str.strip, file), ""))
    except (OSError, ValueError):
        return None
    return found and tuple(int(part) for part in found.groups() if part is not None)


def image_reader() -> Callable:
    """Makes pictures of what a gallery hands over."""
    try:
        from modules.infotext_utils import image_from_url_text
    except ImportError:  # before 1.8
        from modules.generation_parameters_copypaste import image_from_url_text
    return image_from_url_text


def script_argument() -> str:
    """What an event's JavaScript is called: gradio 4 dropped the underscore."""
    import gradio

    return "js" if int(gradio.__version__.partition(".")[0]) > 3 else "_js"


def scheduler(processing: type) -> dict[str, str]:
    """What a picture's processing is given beside its sampler: before 1.9 samplers had schedulers in them."""
    return {"scheduler": "Automatic"} if hasattr(processing, "scheduler") else {}
