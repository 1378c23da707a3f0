"""Merge: LoRA files into a checkpoint, or into one LoRA file."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from lora_train.blocks import BlockWeights
from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.models.whole import rewrite, rewrite_folder
from lora_train.names import ARCHS
from lora_train.tools.base import Base
from lora_train.tools.combine import METHODS, How, Made, Share, Sums, additive, changes, combined
from lora_train.tools.filed import Filed
from lora_train.tools.opened import Opened
from lora_train.tools.tool import PRECISIONS, Report, Told, Writing, ready, replaceable, unheard
from lora_train.values import shown

LISTS = ("ratios", "te_ratios", "unet_ratios", "lbws")
BUNDLED = "bundle_emb."


@dataclasses.dataclass(frozen=True)
class Merge(Writing):
    """What goes in, how strong, and how."""

    about = (
        "Merge LoRA files into a checkpoint, which then makes what it made with them; without --sd_model, "
        "into one LoRA file."
    )

    models: tuple[pathlib.Path, ...] = knob(
        (), "LoRA files, of any family.", group="files", basic=True, place=True)  # fmt: skip
    ratios: tuple[float, ...] = knob(
        (), "Strength of each file. Empty: 1 each.", group="strengths", low=-100, high=100,
        basic=True)  # fmt: skip
    te_ratios: tuple[float, ...] = knob(
        (), "Times the strength of each file on the text encoders. 0: the UNet alone.", group="strengths",
        low=-100, high=100)  # fmt: skip
    unet_ratios: tuple[float, ...] = knob(
        (), "Times the strength of each file on the UNet. 0: the text encoders alone.", group="strengths",
        low=-100, high=100)  # fmt: skip
    lbws: tuple[BlockWeights, ...] = knob(
        (), "Block weights of each file: a preset's name, or 12, 17, 20 or 26 numbers with commas between. "
        "In a form a ; stands between those of two files.", group="strengths")  # fmt: skip
    sd_model: pathlib.Path | None = knob(
        None, "Checkpoint to merge into, a file or a diffusers folder. Empty: the files become one LoRA.",
        group="files", basic=True, place=True)  # fmt: skip
    base: pathlib.Path | None = knob(
        None, "Checkpoint that the files were made for. Asked for where what they add depends on its weights "
        "(DoRA, OFT, IA3, GLoRA) and there is no sd_model.", group="files", place=True)  # fmt: skip
    method: str | None = knob(
        None, "How LoRAs become one. concat: exactly their sum, ranks add up. svd: the nearest of new_rank. "
        "additive: sd-scripts' sum of factors, which is another thing. ties, dare, dare_ties: sums in which "
        "files disturb each other less. Empty: svd with new_rank, else concat.", group="LoRA + LoRA",
        choices=METHODS)  # fmt: skip
    concat: bool = knob(False, "The same as method concat.", group="LoRA + LoRA")
    new_rank: int | None = knob(
        None, "Rank of the result. Empty: as large as it has to be to be exact.", group="LoRA + LoRA", low=1,
        high=4096, basic=True)  # fmt: skip
    new_conv_rank: int | None = knob(
        None, "Rank in 3x3 convolutions. Empty: new_rank.", group="LoRA + LoRA", low=1,
        high=4096)  # fmt: skip
    density: float = knob(
        0.5, "Share of each file's values that TIES keeps, the largest; and that DARE keeps, at random.",
        group="LoRA + LoRA", low=0.001, high=1)  # fmt: skip
    seed: int = knob(0, "Of what DARE draws.", group="LoRA + LoRA", low=0, high=2**32 - 1)
    precision: str = knob(
        "float", "Precision in which a checkpoint's weight and what is added are added. The latter is made "
        "in float in any case.", group="precision", choices=tuple(PRECISIONS))  # fmt: skip
    device: str = knob(
        "cpu", "Where it is computed.", group="precision", choices=("cpu", "cuda"), place=True)  # fmt: skip

    def check(self) -> Iterable[str]:
        if self.save_to is None or self.sd_model is None or not self.sd_model.is_dir():
            yield from super().check()
        elif self.save_to.suffix == ".safetensors":
            yield f"save_to = {shown(str(self.save_to))}: expected a folder's name, for sd_model is a folder"
        if not self.models:
            yield "models: expected LoRA files, such as --models a.safetensors b.safetensors"
        for name in LISTS:
            given = vars(self)[name]
            if given and len(given) != len(self.models):
                yield f"{name}: expected one for each of the {len(self.models)} models; got {len(given)}"
        if self.concat and self.method not in (None, "concat"):
            yield f"concat = true: expected not beside method {self.method}"
        if self.way in ("concat", "additive") and (self.new_rank or self.new_conv_rank):
            yield f"new_rank: expected none with {self.way}, whose rank follows from the files"
        if self.way == "svd" and self.new_rank is None:
            yield "new_rank: expected a rank for method svd"
        alone = ("base", "method", "concat", "new_rank", "new_conv_rank")
        if self.sd_model is not None and (given := [name for name in alone if vars(self)[name]]):
            yield f"{given[0]}: expected none beside sd_model, into which files are merged as they are"

    @property
    def way(self) -> str:
        """The method."""
        return self.method or (
            "svd" if (self.new_rank or self.new_conv_rank) and not self.concat else "concat"
        )

    def run(self, told: Told = unheard) -> Report:
        ready(self.device)
        target = self.free()
        if self.sd_model is not None and self.sd_model.is_dir():
            replaceable(target, self.sd_model)
        shares = self._shares()
        if self.sd_model is not None:
            return self._into(target, shares, told)
        return self._joined(target, shares, told)

    def _shares(self) -> list[Share]:
        ones, blocks = self._ones, (BlockWeights(),) * len(self.models)
        rows = zip(
            self.models, self.ratios or ones, self.te_ratios or ones, self.unet_ratios or ones,
            self.lbws or blocks, strict=True)  # fmt: skip
        shares = [Share(Opened(path), by * te, by * unet, lbw) for path, by, te, unet, lbw in rows]
        _alike([(share.file.path, share.file.arch) for share in shares])
        return shares

    def _into(self, target: pathlib.Path, shares: list[Share], told: Told) -> Report:
        base = Base(self.sd_model)
        _alike([(base.path, base.arch), *((share.file.path, share.file.arch) for share in shares)])
        rows = [_matched(share, base.weights) for share in shares]
        if not any(row["layers"] for row in rows):
            raise Mistake(
                f"{self.sd_model}: has none of the layers that the files are for, or all have strength 0"
            )
        sums = Sums(shares, base, self.device, told)
        dtype = None if self.save_precision is None else PRECISIONS[self.save_precision]
        write = rewrite_folder if self.sd_model.is_dir() else rewrite
        left = write(self.sd_model, sums, target, dtype, within=PRECISIONS[self.precision])
        lines = [line for row in rows for line in _said(row)]
        lines += [f"{len(left)} biases have no place in the checkpoint"] * bool(left)
        changed = len({where[:2] for where in sums if where[2] == "weight"})
        lines.append(f"{changed} layers of {self.sd_model} changed; wrote {target}")
        facts = {
            "files": rows,
            "changed": changed,
            "unplaced": [".".join(w) for w in left],
            "saved": str(target),
        }
        return Report(tuple(lines), facts, (target,))

    def _joined(self, target: pathlib.Path, shares: list[Share], told: Told) -> Report:
        base = Base(self.base) if self.base is not None else None
        made = Filed(shares[0].file.arch, self.dtype(shares[0].file.dtype))
        keys = list(dict.fromkeys(key for share in shares for key in share.file.layers))
        layers: dict[str, Made] = {}
        for i, key in enumerate(keys):
            found = self._layer(shares, key, base)
            if found is not None and found.form:
                made.add(key, found.form, found.shape)
                layers[key] = dataclasses.replace(found, form={})
            told(i + 1, len(keys))
        if not layers:
            raise Mistake("models: nothing is left of them at these strengths")
        words = _bundled(shares, made)
        titles = [share.file.metadata.get("ss_output_name") or share.file.path.stem for share in shares]
        at = [f"{path.stem} {by:g}" for path, by in zip(self.models, self.ratios or self._ones, strict=True)]
        comment = f"merged by {self.way}: {', '.join(at)}"
        made.write(target, made.texts(target.stem, comment, shares[0].file.metadata, titles))
        return self._reported(shares, made, layers, words)

    @property
    def _ones(self) -> tuple[float, ...]:
        return (1.0,) * len(self.models)

    def _reported(
        self, shares: Sequence[Share], made: Filed, layers: Mapping[str, Made], words: Sequence[str]
    ) -> Report:
        lost, norm = (
            math.sqrt(sum(vars(m)[name] ** 2 for m in layers.values())) for name in ("lost", "norm")
        )
        share, worst = max((m.lost / m.norm if m.norm else 0.0, key) for key, m in layers.items())
        unbiased = [key for key, m in layers.items() if m.unbiased]
        rows = [_matched(share, share.file.layers) for share in shares]
        lines = [line for row in rows for line in _said(row)]
        if self.way == "additive":
            lines.append("factors were added, as sd-scripts does; see concat for the sum of the files")
        elif norm:
            lines.append(f"missing: {lost / norm:.2%} of what is added; most in {worst}, {share:.2%}")
        lines += [f"biases of {len(unbiased)} layers are left out: a LoRA has none"] * bool(unbiased)
        lines += [f"the embedding {word} is in it" for word in words]
        lines.append(f"{self.save_to}: {len(layers)} layers, {made.said()}")
        facts = {
            "files": rows, "method": self.way, "layers": len(layers), "error": lost / norm if norm else 0.0,
            "worst": {"layer": worst, "error": share}, "unbiased": unbiased, "embeddings": [*words],
            "ranks": made.ranks(), "saved": str(self.save_to),
        }  # fmt: skip
        return Report(tuple(lines), facts, (self.save_to,))

    def _layer(self, shares: Sequence[Share], key: str, base: Base | None) -> Made | None:
        if self.way == "additive":
            return additive(shares, key)
        parts = changes(shares, key, base, self.device)
        if not parts:
            return None
        wide = max(parts[0][0].shape[2:], default=1) > 1
        rank = (self.new_conv_rank or self.new_rank) if wide else self.new_rank
        return combined(parts, How(self.way, rank, self.density, self.seed), key)


def _alike(models: Sequence[tuple[pathlib.Path, str]]) -> None:
    """Raises Mistake: they are of two architectures."""
    (first, arch), *others = models
    for path, other in others:
        if other != arch:
            raise Mistake(f"{path}: is for {ARCHS[other].said}, and {first} for {ARCHS[arch].said}")


def _matched(share: Share, there: Iterable[str]) -> dict[str, object]:
    """What of a file goes in."""
    known, file = set(there), share.file
    parts = Counter(held.part for key, held in file.layers.items() if key in known and share.strength(key))
    idle = [key for key in file.layers if key not in known and _behind_last(key, known)]
    lost = [key for key in file.layers if key not in known and key not in idle]
    others = sorted({key.partition(".")[0] for key in file.rest if not key.startswith(BUNDLED)})
    return {
        "path": str(file.path), "te": share.te, "unet": share.unet, "lbw": str(share.blocks),
        "layers": sum(parts.values()), "parts": dict(parts), "unmatched": [*lost, *others], "idle": idle,
        "embeddings": sorted({key.split(".")[1] for key in file.rest if key.startswith(BUNDLED)}),
    }  # fmt: skip


def _behind_last(key: str, known: Collection[str]) -> bool:
    """Whether it is of a text encoder's layer that no caption comes through: sd-scripts' files have SDXL's
    first text encoder whole, and models are taken without that layer."""
    found = re.fullmatch(r"(te\d\.encoder\.layers\.)(\d+)(\..+)", key)
    return found is not None and f"{found[1]}{int(found[2]) - 1}{found[3]}" in known


def _said(row: Mapping[str, object]) -> list[str]:
    parts = ", ".join(f"{part} {count}" for part, count in row["parts"].items())
    at = (
        f"{row['unet']:g}"
        if row["unet"] == row["te"]
        else f"UNet {row['unet']:g}, text encoders {row['te']:g}"
    )
    lines = [f"{row['path']}: {row['layers']} layers ({parts}) at {at}"]
    if lost := row["unmatched"]:
        lines.append(f"  {len(lost)} of its layers match nothing and are left out, first {lost[0]}")
    if idle := row["idle"]:
        lines.append(f"  {len(idle)} are for a text encoder's last layer, which no caption comes through")
    return lines


def _bundled(shares: Sequence[Share], made: Filed) -> list[str]:
    """Bring along what embeddings files bring; -> their words. Of two of one name the first is taken."""
    words: list[str] = []
    for share in shares:
        own = [key for key in share.file.rest if key.startswith(BUNDLED)]
        fresh = {key.split(".")[1] for key in own} - {*words}
        for key in own:
            if key.split(".")[1] in fresh:
                [(_, made.more[key])] = share.file.weights.read([share.file.rest[key]])
        words += sorted(fresh)
    return words
