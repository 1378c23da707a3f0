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
    if not download and (lacks := lacking(name)):
        raise Mistake(f"interrogator = {name}: not on this machine; set download, or put {lacks}")
    return lambda image: asked(name, image)


def lacking(name: str) -> str:
    """What of it is to be put where; empty where all is there."""
    missing = [
        (file, place) for file, place in parts(name) if not any(place.glob(f"*{file.rpartition('.')[2]}"))
    ]
    return ", and ".join(f"{file} into {place}" for file, place in missing)


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
        except (OSError, ImportError, RuntimeError, IndexError) as e:  # not fetched, not read, does not fit
            raise Mistake(_failed(name, f"{e}; the WebUI's console says more")) from e
    if said.endswith(FAULT):
        raise Mistake(_failed(name, "could not answer; the WebUI's console says why"))
    return said


def _failed(name: str, why: str) -> str:
    """Where the WebUI cannot fetch a part, it goes on without."""
    lacks = lacking(name)
    return f"interrogator = {name}: {f'could not be fetched; put {lacks}' if lacks else why}"
