"""Checkpoints between a single file and a diffusers folder."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable

from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.models import config
from lora_train.models.facts import PREDICTIONS
from lora_train.models.files import Found, find
from lora_train.names import ARCHS
from lora_train.tools.pipeline import write_file, write_folder
from lora_train.tools.tool import PRECISIONS, Report, Told, Tool, replaceable, unheard
from lora_train.values import shown


@dataclasses.dataclass(frozen=True)
class ConvertModel(Tool):
    """Of a folder it makes a file, and of a file a folder."""

    about = (
        "Make a diffusers folder of a checkpoint, or a checkpoint of a diffusers folder; SD 1.x, SD 2.x and\n"
        "SDXL. A folder has all that diffusers needs, tokenizers too; nothing is downloaded."
    )
    alone = "model"

    model: pathlib.Path | None = knob(
        None, "Checkpoint, or diffusers folder.", group="files", aka=("model_to_load", "model"), basic=True,
        place=True)  # fmt: skip
    vae: pathlib.Path | None = knob(
        None, "Autoencoder to take in place of its own.", group="files", place=True)  # fmt: skip
    v_parameterization: bool | None = knob(
        None, "Whether the model predicts v rather than noise. Empty: as the .yaml beside it or the file "
        "itself says; of SD 2.x somebody has to say it.", group="model")  # fmt: skip
    save_to: pathlib.Path | None = knob(
        None, "Folder to make of a file, or .safetensors file to make of a folder.", group="output",
        aka=("model_to_save", "save_to"), basic=True, place=True)  # fmt: skip
    save_precision: str | None = knob(
        None, "Precision of what is written. Empty: as it is.", group="output", choices=tuple(PRECISIONS),
        aka=("save_precision", "save_precision_as"))  # fmt: skip
    overwrite: bool = knob(
        False, "Replace what is there already.", group="output")  # fmt: skip

    def check(self) -> Iterable[str]:
        if self.model is None:
            yield "model: expected a checkpoint or a diffusers folder"
            return
        if self.save_to is None:
            yield "save_to: expected the folder or the file to write"
            return
        folder, single = self.model.is_dir(), self.save_to.suffix in (".safetensors", ".ckpt")
        if folder and self.save_to.suffix != ".safetensors":
            yield f"save_to = {shown(str(self.save_to))}: expected a .safetensors file, for model is a folder"
        elif not folder and single:
            yield f"save_to = {shown(str(self.save_to))}: expected a folder, for model is a file"

    def run(self, told: Told = unheard) -> Report:
        found = self._found()
        self._free()
        dtype = None if self.save_precision is None else PRECISIONS[self.save_precision]
        of, done = sum(len(part.keys) for part in found.parts.values()), [0]

        def count() -> None:
            done[0] = min(done[0] + 1, of)
            told(done[0], of)

        write_to = write_file if self.model.is_dir() else write_folder
        write_to(found, self.save_to, dtype, count)
        unsaid = _unsaid(found, self.save_to)
        facts = {"arch": found.facts.arch, "prediction": found.facts.prediction, "saved": str(self.save_to),
                 "unsaid": unsaid, "left_out": (lost := _left_out(found))}  # fmt: skip
        said = f"{ARCHS[found.facts.arch].said}, predicts {PREDICTIONS[found.facts.prediction]}"
        lines = [f"Saved {self.save_to}: {said}"]
        if lost:
            lines.append(f"Left out, for it is of no part of the model: {lost[0]}, {len(lost)} in all")
        if unsaid:
            which = ", ".join(unsaid)
            lines.append(f"It does not say its {which}, which are unusual; put a .yaml that does beside it")
        return Report(tuple(lines), facts, (self.save_to,))

    def _found(self) -> Found:
        found = find(self.model, self.vae, idle=True)
        facts = found.facts
        if self.v_parameterization is not None:
            facts = dataclasses.replace(facts, prediction="v" if self.v_parameterization else "epsilon")
        if facts.prediction is None:
            raise Mistake(
                f"{self.model}: does not say whether it predicts v or noise; set v_parameterization (true "
                "for those of 768 pixels, false for the base models of 512)"
            )
        return dataclasses.replace(found, facts=facts)

    def _free(self) -> None:
        to = self.save_to
        if to.exists() and not self.overwrite:
            raise Mistake(f"save_to = {to}: is there already; take another name, or set overwrite")
        if not self.model.is_dir():
            replaceable(to, self.model)
        elif self.model.resolve() in to.resolve().parents:
            raise Mistake(f"save_to = {to}: expected another place than in the model's own folder")


def _unsaid(found: Found, path: pathlib.Path) -> list[str]:
    """What is read of the new one in another way than it is."""
    own, seen = vars(found.facts), find(path).facts
    shares = {"heads": config.unet(found.parts["unet"], found.facts)["attention_head_dim"]}
    try:
        others = {"heads": config.unet(found.parts["unet"], seen)["attention_head_dim"]}
    except ValueError:
        others = {}
    names = {"text_heads": "text encoder's heads", "text_activation": "text encoder's activation",
             "scale": "latents' scale", "start": "noise schedule", "end": "noise schedule"}  # fmt: skip
    told = {said for name, said in names.items() if own[name] not in (None, vars(seen)[name])}
    return sorted(told | ({"attention heads"} if shares != others else set()))


def _left_out(found: Found) -> list[str]:
    """Tensors of the model's files that are in no part of it."""
    files = {there.weights.path: there.weights for there in found.parts.values()}
    used = {(there.weights.path, at.key) for there in found.parts.values() for at in there.keys.values()}
    return [key for path, file in files.items() for key in file.shapes if (path, key) not in used]
