"""How files of adapters spell their keys: kohya's way, and others' that are read as if they were in it."""

from __future__ import annotations

import json
import math
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from lora_train.adapters.lora import DOWN, MID, UP
from lora_train.errors import Mistake
from lora_train.names import text_path
from lora_train.weights import Weights, open_weights

ALPHA, MAGNITUDES = "alpha", "dora_scale"
CONFIG, TOLD, FOLDED = "adapter_config.json", "lora_adapter_metadata", "lora_train_folded"
PARTS = {  # folder of a part in a folder of PEFT's -> how its keys begin in diffusers' files
    "unet": "unet", "transformer": "unet", "text_encoder": "text_encoder", "text_encoder_2": "text_encoder_2",
}  # fmt: skip
FILES = ("adapter_model.safetensors", "adapter_model.bin", "pytorch_lora_weights.safetensors",
         "pytorch_lora_weights.bin")  # fmt: skip
LEADS = {  # how a key begins -> how its layer's key begins in kohya's files
    "unet": "lora_unet_",
    "diffusion_model": "lora_unet_",
    "text_encoder": "lora_te1_text_model_",
    "text_encoder_2": "lora_te2_text_model_",
    "text_encoders.clip_l.transformer": "lora_te1_text_model_",
    "text_encoders.clip_g.transformer": "lora_te2_text_model_",
    "clip_l.transformer": "lora_te1_text_model_",
    "clip_g.transformer": "lora_te2_text_model_",
    "text_encoders.clip_h.transformer": "lora_te1_text_model_",
}
LEAD = re.compile("(" + "|".join(map(re.escape, sorted(LEADS, key=len, reverse=True))) + r")\.")
BARE = re.compile(r"(down_blocks|up_blocks|mid_block|conv_in|conv_out|time_embedding|input_blocks)\b")
TEXT = re.compile(r"(text_model\.)?encoder\.layers\.")
PLAIN = {"A": DOWN, "down": DOWN, "B": UP, "up": UP}
ENDINGS = (  # of a key whose module has dots -> the tensor as kohya says, where that is another word
    (re.compile(r"\.lora_([AB])(?:\.(?!weight$)\w+)?\.weight$"), PLAIN),
    (re.compile(r"\.lora(?:_linear_layer)?\.(down|up)\.weight$"), PLAIN),
    (re.compile(r"(?<=to_[qkv])_lora\.(down|up)\.weight$"), PLAIN),
    (re.compile(r"(?<=to_out)_lora\.(down|up)\.weight$"), PLAIN),
    (re.compile(r"\.(lora_magnitude_vector)(?:\.\w+)*$"), {"lora_magnitude_vector": MAGNITUDES}),
    (re.compile(rf"\.({DOWN}|{UP}|{MID}|{ALPHA}|{MAGNITUDES}|diff|diff_b|w_norm|b_norm)$"), {}),
    (re.compile(r"\.((?:a[12]|b[12]|bm)\.weight|on_input|oft_blocks|oft_diag|rescale)$"), {}),
    (re.compile(r"\.((?:hada|lokr)_[wt][12](?:_[ab])?)(?:\.(?!weight$)\w+)?$"), {}),
)
OLD_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
COUNTED = {DOWN: 0, "hada_w1_b": 0, "lokr_w2_b": 0, "lokr_w1_b": 0}  # tensors whose rows are the rank


class Spelled:
    """An open file, or several, under the keys that kohya's files have.

    `names` says which key of the file that is; "" of an alpha that stands beside the tensors, in the JSON of
    PEFT or in the metadata.
    """

    def __init__(self, path: pathlib.Path, files: Iterable[tuple[str, Weights, Mapping[str, object]]]):
        """files: how the keys begin in each, where they do not say it; the file; PEFT's settings."""
        self.path = path
        self.names: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self.metadata: dict[str, str] = {}
        self.files: dict[str, Weights] = {}
        self.alphas: dict[str, float] = {}
        self.folded: dict[str, float] = {}  # of an `up` that has the scale in it -> what it was times
        for lead, weights, config in files:
            self.metadata |= {str(k): str(v) for k, v in weights.metadata.items()}
            self._take(lead, weights, config)
        for name in (FOLDED, TOLD):
            self.metadata.pop(name, None)

    def _take(self, lead: str, weights: Weights, config: Mapping[str, object]) -> None:
        own = {key: _kohya(key, lead) for key in weights.shapes}
        for key in [key for key, found in own.items() if found is None and key.endswith(".weight")]:
            beside = own.get(key.removesuffix("weight") + "on_input")  # an IA3
            own[key] = beside and (beside[0].replace("on_input", "weight"), "")
        ranks: dict[str, tuple[str, int]] = {}  # module -> where it is in the file's words, and its rank
        for key, found in own.items():
            name, place = (key, "") if found is None else found
            if name in self.names:
                raise Mistake(
                    f"{self.path}: {self.names[name]} and {key} are for the same layer; the file is damaged"
                )
            self.names[name], self.files[name] = key, weights
            self.shapes[name], self.dtypes[name] = weights.shapes[key], weights.dtypes[key]
            module, _, tensor = name.partition(".")
            if place and tensor in COUNTED and self.shapes[name]:
                ranks.setdefault(module, (place, self.shapes[name][COUNTED[tensor]]))
        self._reshape()
        told, folded = _told(weights.metadata), _folded(weights.metadata)
        for module, (place, rank) in ranks.items():
            part, _, path = place.partition(":")
            settings = config or told.get(part, {})
            name = f"{module}.{ALPHA}"
            if name in self.names:
                continue
            if folded:
                alpha = folded.get(f"{part}.{path}", folded[""])
                self._fold(module, alpha / max(rank, 1))
            elif settings:
                alpha = _alpha(settings, path, rank, self.path)
            else:
                continue
            self.alphas[name], self.names[name], self.shapes[name] = alpha, "", ()
            dtype = self.dtypes.get(f"{module}.{DOWN}", torch.float32)
            exact = float(torch.tensor(alpha, dtype=dtype)) == alpha
            self.dtypes[name] = dtype if exact else torch.float32

    def _reshape(self) -> None:
        """PEFT's magnitudes are of one axis in linear layers, and along another in convolutions."""
        for name, shape in self.shapes.items():
            if name.endswith(f".{MAGNITUDES}") and "lora_magnitude_vector" in self.names[name]:
                up = self.shapes.get(name.replace(MAGNITUDES, UP), ())
                self.shapes[name] = (math.prod(shape), *[1] * max(len(up) - 1, 1))

    def _fold(self, module: str, scale: float) -> None:
        """Say that a layer's scale is in its `up`, and to be taken out of it."""
        up = f"{module}.{UP}"
        if up in self.names and scale != 1:
            self.folded[up] = scale
            self.dtypes[up] = self.dtypes.get(f"{module}.{DOWN}", self.dtypes[up])

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        for name in names:
            if name in self.alphas:
                yield name, torch.tensor(self.alphas[name], dtype=self.dtypes[name])
                continue
            [(_, tensor)] = self.files[name].read([self.names[name]])
            if name in self.folded:
                tensor = (tensor.float() / self.folded[name]).to(self.dtypes[name])
            yield name, tensor.reshape(self.shapes[name])


def opened(path: pathlib.Path) -> Spelled:
    """A file of adapters in any spelling, or a folder as PEFT or diffusers write it.

    Raises:
        Mistake: there is none, or it cannot be read.
    """
    if path.is_dir():
        found = [(lead, path / part / file) for part, lead in {"": "", **PARTS}.items() for file in FILES
                 if (path / part / file).is_file()]  # fmt: skip
        if not found:
            raise Mistake(f"{path}: expected a .safetensors file, or a folder with {FILES[0]} in it")
    elif not path.is_file():
        raise Mistake(f"{path}: no such file")
    else:
        found = [(PARTS.get(path.absolute().parent.name, ""), path)]
    files = []
    for lead, file in found:
        weights = open_weights(file)
        files.append((lead, weights, _config(file, weights)))
    return Spelled(path, files)


def _config(file: pathlib.Path, weights: Weights) -> dict[str, object]:
    """PEFT's settings of a file of its."""
    there = file.parent / CONFIG
    own = file.stem == "adapter_model" or any(key.startswith("base_model.") for key in weights.shapes)
    if not own or not there.is_file():
        return {}
    try:
        found = json.loads(there.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise Mistake(f"{there}: expected PEFT's settings as JSON ({e})") from e
    if not isinstance(found, dict):
        raise Mistake(f"{there}: expected PEFT's settings as JSON")
    return found


def _kohya(key: str, lead: str) -> tuple[str, str] | None:
    """Key in kohya's files, and "part:path" in the words of a file whose keys have dots; None for one that
    stays as it is."""
    module, _, tensor = key.partition(".")
    if module.startswith(("lora_", "oft_", "lycoris_", "bundle_emb")):
        return _flat(module, tensor)
    for pattern, names in ENDINGS:
        if found := pattern.search(key):
            at = key[: found.start()].removeprefix("base_model.model.").replace(".processor", "")
            place = _place(at, lead)
            return place and (f"{place[0]}.{names.get(found[1], found[1])}", f"{place[1]}")
    return None


def _flat(module: str, tensor: str) -> tuple[str, str]:
    """Of a key whose module has no dots."""
    found = re.fullmatch(r"lora_([AB])(?:\.\w+)?\.weight", tensor)
    name = PLAIN[found[1]] if found else tensor
    if module.startswith("lycoris_"):
        path = module.removeprefix("lycoris_")
        module = ("lora_te1_" if path.startswith("text_model") else "lora_unet_") + path
    return f"{module}.{name}", ""


def _place(at: str, lead: str) -> tuple[str, str] | None:
    """A layer by its dots -> its key in kohya's files, and "part:path" as PEFT's settings speak of it."""
    if found := LEAD.match(at):
        lead, at = found[1], at[found.end() :]
    elif not lead:
        lead = "unet" if BARE.match(at) else "text_encoder" if TEXT.match(at) else ""
    if not lead:
        return None
    begin, path = LEADS[lead], at
    if begin != "lora_unet_":
        head, _, last = text_path(at).rpartition(".")
        path = f"{head}.{OLD_TEXT.get(last, last)}"
    elif path.endswith(".to_out"):
        path += ".0"
    return begin + path.replace(".", "_"), f"{lead}:{at}"


def _told(metadata: Mapping[str, str]) -> dict[str, dict[str, object]]:
    """PEFT's settings of each part, as diffusers writes them into a file's metadata."""
    try:
        found = json.loads(metadata.get(TOLD, "{}"))
    except (ValueError, RecursionError):
        return {}
    parts: dict[str, dict[str, object]] = {}
    for key, value in found.items() if isinstance(found, dict) else ():
        part, _, name = str(key).partition(".")
        parts.setdefault(part, {})[name] = value
    return parts


def _folded(metadata: Mapping[str, str]) -> dict[str, float]:
    """Alphas of layers that we worked into a file's factors: that of most under "", others by their place."""
    try:
        found = {str(k): float(v) for k, v in json.loads(metadata.get(FOLDED, "{}")).items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}
    sound = "" in found and all(value and math.isfinite(value) for value in found.values())
    return found if sound else {}


def _alpha(config: Mapping[str, object], path: str, rank: int, file: pathlib.Path) -> float:
    """A layer's, so that alpha/rank is what PEFT multiplies with.

    Raises:
        Mistake: the settings are none of PEFT's.
    """
    patterns = config.get("alpha_pattern") or {}
    try:
        own = next((p for p in patterns if re.match(rf"(.*\.)?({p})$", path)), None)
        usual = config.get("lora_alpha", config.get("alpha", rank))
        alpha = float(usual if own is None else patterns[own])
        return alpha * math.sqrt(rank) if config.get("use_rslora") else alpha
    except (re.error, TypeError, ValueError, KeyError) as e:
        raise Mistake(f"{file}: expected lora_alpha and alpha_pattern in its PEFT settings ({e})") from e
