"""Where models that look at pictures lie: a person's folder, what the hub's programs keep, or the hub."""

from __future__ import annotations

import dataclasses
import http.client
import os
import pathlib
import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence

from lora_train.data.memory import usual
from lora_train.errors import Mistake

HUB = "https://huggingface.co"
SECONDS = 30  # without a byte


@dataclasses.dataclass(frozen=True)
class Source:
    """A model of the hub, and which of its files are needed."""

    repo: str
    model: str = "model.onnx"
    labels: str = "selected_tags.csv"


WD = "SmilingWolf"
TAGGERS: dict[str, Source] = {
    name: Source(f"{WD}/{name}")
    for name in (
        "wd-eva02-large-tagger-v3", "wd-vit-large-tagger-v3", "wd-vit-tagger-v3", "wd-swinv2-tagger-v3",
        "wd-convnext-tagger-v3", "wd-v1-4-moat-tagger-v2", "wd-v1-4-swinv2-tagger-v2",
        "wd-v1-4-convnextv2-tagger-v2", "wd-v1-4-convnext-tagger-v2", "wd-v1-4-vit-tagger-v2",
        "wd-v1-4-convnext-tagger", "wd-v1-4-vit-tagger",
    )
} | {
    "ml-danbooru-caformer": Source(
        "deepghs/ml-danbooru-onnx", "ml_caformer_m36_dec-5-97527.onnx", "classes.json"),
    "ml-danbooru-tresnet": Source(
        "deepghs/ml-danbooru-onnx", "TResnet-D-FLq_ema_6-30000.onnx", "classes.json"),
    "deepdanbooru": Source("chinoll/deepdanbooru", "deepdanbooru.onnx", "tags.txt"),
}  # fmt: skip


def usual_folder() -> pathlib.Path:
    """Where models are kept that nobody said a place for."""
    return usual().with_name("taggers")


def source(name: str) -> Source | None:
    """What a name or `user/model` stands for; None: neither."""
    if name in TAGGERS:
        return TAGGERS[name]
    known = next((s for s in TAGGERS.values() if s.repo == name and s.repo.startswith(WD)), None)
    return known or (Source(name) if name.count("/") == 1 and not name.startswith((".", "/")) else None)


def found(name: str, folders: Sequence[pathlib.Path], *, download: bool) -> pathlib.Path:
    """The .onnx file of a model of the hub, with its list of labels beside it.

    Args:
        folders: where it may lie, in a folder of its name; what is downloaded goes into the first.

    Raises:
        Mistake: it is nowhere; the message says where to put it.
    """
    wanted = source(name)
    own = wanted.repo.rpartition("/")[2] if name not in TAGGERS else name
    for place in (*(folder / own for folder in folders), *_cached(wanted.repo)):
        if (place / wanted.model).is_file() and (place / wanted.labels).is_file():
            return place / wanted.model
    place = folders[0] / own
    if not download:
        raise Mistake(
            f"tagger = {name}: not on this machine; set download to get it from {wanted.repo}, or put its "
            f"{wanted.model} and {wanted.labels} into {place}")  # fmt: skip
    for file in (wanted.labels, wanted.model):
        fetch(wanted.repo, file, place / file)
    return place / wanted.model


def fetch(repo: str, file: str, to: pathlib.Path) -> None:
    """A file of the hub, or of the mirror that HF_ENDPOINT names; whole or not at all.

    Raises:
        Mistake: it cannot be had; the message says where to put it.
    """
    address = f"{os.environ.get('HF_ENDPOINT', HUB).rstrip('/')}/{repo}/resolve/main/{file}"
    part = to.with_name(f"{to.name}.part")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(address, timeout=SECONDS) as answer, part.open("wb") as written:  # noqa: S310
            shutil.copyfileobj(answer, written, 1 << 20)
            size = answer.headers.get("Content-Length")
        if size is not None and part.stat().st_size != int(size):
            raise OSError("the connection broke off")
        part.replace(to)
    except (OSError, ValueError, http.client.HTTPException) as e:
        part.unlink(missing_ok=True)
        reason = e.reason if isinstance(e, urllib.error.URLError) else e
        raise Mistake(f"{address}: cannot be had ({reason}); get it elsewhere, and put it to {to}") from e


def _cached(repo: str) -> list[pathlib.Path]:
    """What the hub's own programs have of it, the newest first."""
    home = pathlib.Path(os.environ.get("HF_HOME") or pathlib.Path.home() / ".cache" / "huggingface")
    hub = pathlib.Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    kept = (hub / f"models--{repo.replace('/', '--')}" / "snapshots").glob("*")
    return sorted(kept, key=lambda path: path.stat().st_mtime, reverse=True)
