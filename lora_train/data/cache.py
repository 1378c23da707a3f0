"""Latents: computed once for every picture and kept in memory or on disk, or anew at each use."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lora_train.data import pictures
from lora_train.data.looks import Look
from lora_train.data.memory import Memory
from lora_train.data.pictures import Picture
from lora_train.draws import drawn
from lora_train.errors import Mistake

VERSION = 2  # to be raised when decoding, resizing or drawing changes: older files are then not read

Encode = Callable[[Tensor, Sequence[torch.Generator]], Tensor]
"""pixels [B, 3, H, W] in -1..1 and a generator for each -> latents [B, C, h, w], drawn from the posterior."""

View = tuple[Picture, bool]
"""A picture, and whether it is mirrored."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """One picture, shown once."""

    picture: Picture
    look: Look
    ordinal: int  # running number in the run


class Latents(Protocol):
    """Where batches get their latents."""

    slow: bool  # whether `fetch` is worth a thread of its own

    def fetch(self, samples: Sequence[Sample]) -> Tensor:
        """What can be made ready without the autoencoder. All samples are of one bucket."""
        ...

    def finish(self, fetched: Tensor, samples: Sequence[Sample]) -> Tensor:
        """-> [B, C, h, w] float32."""
        ...

    def masks(self, samples: Sequence[Sample]) -> Tensor | None:
        """[B, 1, h, w] float32, see pictures.mask; None: all of all of them counts."""
        ...


class Fresh:
    """Latents encoded at each use, each time with a new draw from the posterior."""

    slow = True

    def __init__(self, encode: Encode, seed: int):
        self.encode, self.seed = encode, seed

    def fetch(self, samples: Sequence[Sample]) -> Tensor:
        return torch.stack([pictures.load(s.picture, s.look) for s in samples])

    def finish(self, fetched: Tensor, samples: Sequence[Sample]) -> Tensor:
        rngs = [drawn(self.seed, "latents", s.ordinal) for s in samples]
        return encoded(self.encode, fetched, rngs, [s.picture for s in samples])

    def masks(self, samples: Sequence[Sample]) -> Tensor | None:
        if all(s.picture.mask is None for s in samples):
            return None
        return torch.stack([pictures.mask(s.picture, s.look) for s in samples])


class Cache:
    """Latents encoded once.

    A picture's draw from the posterior depends on the file's content alone: a cache made again is the same.

    Args:
        encode: see Encode.
        vae: changes when the autoencoder does.
        folder: where to keep them, for other runs too: a file's name stands for all its latent depends on.
            None: in memory.
        batch: pictures encoded at once.
        memory: where the contents' digests are remembered.
    """

    slow = False

    def __init__(  # noqa: PLR0913 (what a latent depends on, and where it is kept)
        self,
        encode: Encode,
        vae: str,
        *,
        folder: pathlib.Path | None = None,
        batch: int = 1,
        memory: Memory | None = None,
    ):
        self.encode, self.vae, self.folder, self.batch = encode, vae, folder, batch
        self.memory = memory or Memory()
        self.kept: dict[str, Tensor] = {}
        self.contents: dict[pathlib.Path, str] = {}

    def fill(self, views: Iterable[View], report: Callable[[int, int], None] = lambda done, of: None) -> None:
        """Encode what is not kept yet.

        Args:
            report: told how many are done, and of how many; may raise to break off.

        Raises:
            Mistake: pictures that cannot be decoded (all of them), latents that are not finite, no room.
        """
        views = list(views)
        wanted = {self.key(picture, flip): (picture, flip) for picture, flip in views}
        missing = {key: view for key, view in wanted.items() if self._read(key) is None}
        done, complaints = len(wanted) - len(missing), []
        report(done, len(wanted))
        for keys in _chunks(missing, self.batch):
            some = [missing[key] for key in keys]
            try:
                ready = [] if complaints else [_seen(*view) for view in some]
            except Mistake as e:
                complaints.append(str(e))
            if complaints:  # the run is lost: only look for what else is damaged
                complaints += [c for picture, _ in some if (c := _complaint(picture.path))]
                continue
            self._encode(keys, some, torch.stack(ready))
            done += len(keys)
            report(done, len(wanted))
        complaints += self._masked([view for view in views if view[0].mask])
        self.memory.keep()
        pictures.complain(list(dict.fromkeys(complaints)))

    def fetch(self, samples: Sequence[Sample]) -> Tensor:
        return torch.stack([self._one(s.picture, s.look.flip) for s in samples])

    def finish(self, fetched: Tensor, samples: Sequence[Sample]) -> Tensor:
        return fetched

    def masks(self, samples: Sequence[Sample]) -> Tensor | None:
        if all(s.picture.mask is None for s in samples):
            return None
        return torch.stack([self._mask(s.picture, s.look.flip) for s in samples])

    def key(self, picture: Picture, flip: bool) -> str:
        """All that a latent depends on, as 40 hex digits."""
        fit = picture.fit
        how = (fit.bucket, fit.resized, fit.crop, picture.background, picture.interpolation, flip)
        words = (VERSION, self.vae, self._content(picture.path), *how)
        return hashlib.sha256(repr(words).encode()).hexdigest()[:40]

    def keys(self, picture: Picture, flip: bool) -> set[str]:
        """Of a view's latent, and of its mask if it has one."""
        return {self.key(picture, flip)} | ({self._mask_key(picture, flip)} if picture.mask else set())

    def _mask_key(self, picture: Picture, flip: bool) -> str:
        fit, own = picture.fit, picture.mask == picture.path
        words = (VERSION, "mask", own, self._content(picture.mask), fit, picture.interpolation, flip)
        return hashlib.sha256(repr(words).encode()).hexdigest()[:40]

    def _masked(self, views: Sequence[View]) -> list[str]:
        """Keep the masks that are not kept yet; complaints of those that cannot be read."""
        complaints = []
        for picture, flip in views:
            try:
                self._mask(picture, flip)
            except Mistake as e:
                complaints.append(str(e))
        return complaints

    def _mask(self, picture: Picture, flip: bool) -> Tensor:
        """[1, h, w]."""
        if picture.mask is None:
            return pictures.mask(picture)
        key = self._mask_key(picture, flip)
        mask = self._read(key)
        if mask is None:
            mask = pictures.mask(picture, Look(flip=flip))
            self._write(key, mask)
        return mask

    def _content(self, path: pathlib.Path) -> str:
        if path not in self.contents:
            self.contents[path] = self.memory.digest(path)
        return self.contents[path]

    def _one(self, picture: Picture, flip: bool) -> Tensor:
        key = self.key(picture, flip)
        latent = self._read(key)
        if latent is None:  # the file was damaged or deleted since
            self._encode([key], [(picture, flip)], _seen(picture, flip)[None])
            latent = self._read(key)
        return latent

    def _encode(self, keys: Sequence[str], views: Sequence[View], ready: Tensor) -> None:
        rngs = [drawn("latents", self._content(picture.path), flip) for picture, flip in views]
        latents = encoded(self.encode, ready, rngs, [picture for picture, _ in views]).cpu()
        for key, latent in zip(keys, latents, strict=True):
            self._write(key, latent.clone())

    def _read(self, key: str) -> Tensor | None:
        """None: there is no such file, or it is damaged."""
        if self.folder is None:
            return self.kept.get(key)
        try:
            with safe_open(self._path(key), framework="pt") as f:
                latent = f.get_tensor("latents").clone()
                whole = (f.metadata() or {}).get("crc32") == _checksum(latent)
        except (OSError, SafetensorError):
            return None
        return latent if whole else None

    def _write(self, key: str, latent: Tensor) -> None:
        if self.folder is None:
            self.kept[key] = latent
            return
        path = self._path(key)
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({"latents": latent}, part, metadata={"crc32": _checksum(latent)})
            part.replace(path)
        except (OSError, SafetensorError) as e:
            raise Mistake(
                f"{path}: latents cannot be kept there ({e}); make room, or keep them in memory with "
                "place.cache_latents_to_disk = false"
            ) from e

    def _path(self, key: str) -> pathlib.Path:
        return self.folder / f"{key}.safetensors"


def encoded(encode: Encode, ready: Tensor, rngs: Sequence[torch.Generator], of: Sequence[Picture]) -> Tensor:
    """Raises Mistake: latents that are not finite."""
    with torch.no_grad():
        latents = encode(ready, rngs).float()
    bad = [p.name for p, latent in zip(of, latents, strict=True) if not latent.isfinite().all()]
    if bad:
        raise Mistake(
            f"{bad[0]}: the autoencoder makes NaN of it, as some do in half precision; "
            "let it run in float32 (in a WebUI: --no-half-vae), or give another one with model.vae"
        )
    return latents


def _seen(picture: Picture, flip: bool) -> Tensor:
    """[3, H, W] in -1..1."""
    return pictures.load(picture, Look(flip=flip))


def _chunks(missing: dict[str, View], batch: int) -> Iterator[list[str]]:
    """Keys of one bucket, at most `batch` together."""
    buckets: dict[tuple[int, int], list[str]] = {}
    for key, (picture, _) in missing.items():
        buckets.setdefault(picture.fit.bucket, []).append(key)
    for keys in buckets.values():
        for first in range(0, len(keys), batch):
            yield keys[first : first + batch]


def _complaint(path: pathlib.Path) -> str | None:
    try:
        pictures.verify(path)
    except Mistake as e:
        return str(e)
    return None


def _checksum(latent: Tensor) -> str:
    return f"{zlib.crc32(latent.numpy().tobytes()):08x}"
