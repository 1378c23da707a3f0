"""What is computed once before a run: latents of pictures, and conds of captions."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lora_train.data.batches import every_caption
from lora_train.data.cache import Cache, Fresh, Latents
from lora_train.data.memory import Memory, usual
from lora_train.data.spoken import Blank
from lora_train.host import Cond, Lent
from lora_train.run.store import whole

if TYPE_CHECKING:
    from lora_train.data.folder import Planned
    from lora_train.job import Job, Place
    from lora_train.run.store import RunStore
    from lora_train.train.parallel import Team

VERSION = 1  # of conds on disk


@dataclasses.dataclass
class Caches:
    """One run's; `report(what, done, of)` is told, and may raise to break off."""

    job: Job
    place: Place
    store: RunStore
    lent: Lent
    planned: Planned
    crew: Team
    report: Callable[[str, int, int], None]
    made: dict[str, Cond] = dataclasses.field(default_factory=dict)  # on the device, one for each caption

    def latents(self) -> Latents:
        return self.job.objective.seen(self._latents())

    def _latents(self) -> Latents:
        place = self.place
        if not self.planned.pictures:
            self.lent.park("vae")
            return Blank()
        if not place.caches(self.job.data):
            return Fresh(self.lent.encode_images, self.job.training.seed)
        folder = self.store.caches[0] if place.cache_latents_to_disk else None
        cache = Cache(
            self.lent.encode_images, self.lent.vae_id, folder=folder, batch=place.vae_batch_size,
            memory=Memory(usual()))  # fmt: skip
        views = self.planned.views()
        cache.fill(self.crew.share(views), lambda done, of: self.report("caching latents", done, of))
        for others in self.crew.all(cache.kept):  # nothing where they are on disk
            cache.kept.update(others)
        if folder and self.own:
            prune(folder, {key for picture, flip in views for key in cache.keys(picture, flip)})
        self.lent.park("vae")
        return cache

    def conds(self) -> dict[str, Cond] | None:
        """Of every caption, where neither captions nor the text encoder change."""
        place, captions = self.place, every_caption(self.planned)
        if captions is None or not (
            place.cache_text_encoder_outputs or place.cache_text_encoder_outputs_to_disk
        ):
            return None
        folder = self.store.caches[1] if place.cache_text_encoder_outputs_to_disk else None
        mine = self.crew.share(captions)
        with torch.no_grad():
            conds = self.made
            for caption in mine:
                self.report("caching captions", len(conds), len(mine))
                conds[caption] = self._cond(caption, folder)
        if folder and self.own:
            prune(folder, {self._key(caption) for caption in captions})
        self.lent.park("text")
        if self.crew.world == 1:
            return conds
        # through the computer's memory, for each has a card of its own
        own = {caption: cond.to(torch.empty(0)) for caption, cond in conds.items()}
        card = torch.empty(0, device=self.lent.device)
        return {caption: cond.to(card) for some in self.crew.all(own) for caption, cond in some.items()}

    @property
    def own(self) -> bool:
        """Whether the folders are of this run alone, and this process may clear them."""
        return self.crew.first and self.store.beside != self.store.folder

    def _cond(self, caption: str, folder: pathlib.Path | None) -> Cond:
        if folder is None:
            return self.lent.encode([caption])
        path = folder / f"{self._key(caption)}.safetensors"
        try:
            with safe_open(path, "pt") as f:
                there = {name: f.get_tensor(name).to(self.lent.device) for name in f.keys()}  # noqa: SIM118
                return Cond(there["context"], there.get("vector"))
        except (OSError, SafetensorError, KeyError):
            cond = self.lent.encode([caption])
        tensors = {"context": cond.context, "vector": cond.vector}
        with whole(path) as part:
            save_file({k: v.cpu().contiguous() for k, v in tensors.items() if v is not None}, part)
        return cond

    def _key(self, caption: str) -> str:
        """All that a cond depends on."""
        origin = self.lent.origin
        paths = ("pretrained_model_name_or_path", "vae", "base_weights", "base_weights_multiplier")
        how = {k: v for k, v in vars(self.job.model).items() if k not in paths}
        if self.job.model.base_weights:
            files = [(path.stat().st_size, path.stat().st_mtime_ns) for path, _ in self.job.model.beneath()]
            how["base_weights"] = (files, self.job.model.beneath())
        words = (VERSION, origin.name, origin.new_hash, sorted(how.items()), self.precision, caption)
        return hashlib.sha256(repr(words).encode()).hexdigest()[:40]

    @property
    def precision(self) -> str:
        return f"{self.job.training.mixed_precision} {self.lent.device.type}"


def prune(folder: pathlib.Path, keys: set[str]) -> None:
    """Remove what the data set no longer uses."""
    for path in folder.glob("*.safetensors"):
        if path.stem not in keys:
            path.unlink(missing_ok=True)
