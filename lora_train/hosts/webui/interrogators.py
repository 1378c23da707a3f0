"""The WebUI's interrogators, asked in its turn, and fetched only where that is wished."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from lora_train.errors import Mistake

if TYPE_CHECKING:
    from PIL import Image

FAULT = "<error>"  # what the WebUI writes behind an answer that went wrong


def found(name: str, *, download: bool) -> Callable[[Image.Image], str]:
    """Raises Mistake: a part of it is not on the disk, and may not be fetched."""
    missing = [
        (file, place) for file, place in parts(name) if not any(place.glob(f"*{file.rpartition('.')[2]}"))
    ]
    if missing and not download:
        said = ", and ".join(f"{file} into {place}" for file, place in missing)
        raise Mistake(f"interrogator = {name}: not on this machine; set download, or put {said}")
    return lambda image: asked(name, image)


def parts(name: str) -> list[tuple[str, pathlib.Path]]:
    """(file, folder) of what it is made of, where the WebUI looks for it."""
    from modules import paths, shared

    models = pathlib.Path(paths.models_path)
    if name == "deepdanbooru":
        return [("model-resnet_custom_v3.pt", models / "torch_deepdanbooru")]
    kept = shared.cmd_opts.clip_models_path or pathlib.Path.home() / ".cache" / "clip"
    styles = pathlib.Path(shared.interrogator.content_dir).absolute()
    return [
        ("model_base_caption_capfilt_large.pth", models / "BLIP"),
        ("ViT-L-14.pt", pathlib.Path(kept)),
        ("artists.txt", styles),  # and others, of words on styles
    ]


def asked(name: str, image: Image.Image) -> str:
    """Raises Mistake: it could not answer."""
    from modules import call_queue, deepbooru, shared

    with call_queue.queue_lock:  # nobody generates meanwhile
        try:
            said = (
                deepbooru.model.tag(image)
                if name == "deepdanbooru"
                else shared.interrogator.interrogate(image)
            )
        except (OSError, ImportError, RuntimeError) as e:  # it cannot be fetched, read, or does not fit
            raise Mistake(f"interrogator = {name}: {e}; the WebUI's console says more") from e
    if said.endswith(FAULT):
        raise Mistake(f"interrogator = {name}: could not answer; the WebUI's console says why")
    return said
