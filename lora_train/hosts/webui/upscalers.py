"""The WebUI's upscalers, used in its turn, and fetched only where that is wished."""

from __future__ import annotations

import pathlib
import urllib.parse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lora_train.errors import Mistake
from lora_train.values import either

if TYPE_CHECKING:
    from PIL import Image

PLAIN = ("None", "Lanczos", "Nearest")  # without a model
ENDINGS = (".pth", ".pt", ".ckpt", ".safetensors")


def found(name: str, *, download: bool) -> Callable[[Image.Image, float], Image.Image]:
    """Raises Mistake: there is none of this name, or it is not on the disk and may not be fetched."""
    from modules import shared

    every = {data.name: data for data in shared.sd_upscalers if data.name != "None"}
    data = {known.casefold(): data for known, data in every.items()}.get(name.casefold())
    if data is None:
        raise Mistake(f"upscaler = {name}: the WebUI has none of this name; there is {either(every)}")
    place = _missing(data)
    if place is not None and not download:
        raise Mistake(f"upscaler = {data.name}: not on this machine; set download, or put {place.name} from "
                      f"{data.data_path or data.scaler.model_url} into {place.parent}")  # fmt: skip
    return lambda image, factor: used(data, image, factor)


def used(data: Any, image: Image.Image, factor: float) -> Image.Image:
    """Raises Mistake: it could not be loaded, or does not fit into memory."""
    from modules import call_queue, images

    with call_queue.queue_lock:  # nobody generates meanwhile
        try:
            larger = data.scaler.upscale(image, factor, data.data_path)
        except (OSError, ImportError, RuntimeError) as e:
            raise Mistake(f"upscaler = {data.name}: {e}; the WebUI's console says more") from e
    # where its model cannot be loaded, the WebUI only resizes, and says so on its console
    if data.name not in PLAIN and larger.tobytes() == image.resize(larger.size, images.LANCZOS).tobytes():
        raise Mistake(f"upscaler = {data.name}: could not be used; the WebUI's console says why")
    return larger


def _missing(data: Any) -> pathlib.Path | None:
    """Where the file of a model would be that has yet to be fetched."""
    own = data.scaler
    address = str(data.data_path or own.model_url or "")
    if data.name in PLAIN or not address.startswith(("http:", "https:")):
        return None
    folder = pathlib.Path(own.model_download_path or own.model_path)
    file = pathlib.PurePosixPath(urllib.parse.urlsplit(address).path).name
    if pathlib.PurePosixPath(file).suffix not in ENDINGS:  # an address that says nothing of the file
        there = [path for path in folder.glob("*") if path.suffix in ENDINGS]
        return None if there else folder / "model.ckpt"
    names = {file, f"{own.model_name}.pth", f"{data.name}.pth"}  # by which the WebUI's upscalers keep it
    return None if any((folder / name).is_file() for name in names) else folder / file
