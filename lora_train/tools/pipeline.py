"""A model as a diffusers folder, and as a single file: each part's tensors under the other's names."""

from __future__ import annotations

import json
import math
import pathlib
import re
import shutil
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lora_train import names
from lora_train.errors import Mistake
from lora_train.models import config
from lora_train.models.facts import Facts
from lora_train.models.files import (
    FOLDERS,
    INPAINTING,
    LAYER,
    OPEN_CLIP,
    TEXTS,
    TOWERS,
    WORDS,
    Found,
    Part,
)  # fmt: skip
from lora_train.models.whole import put
from lora_train.models.written import narrowed, write
from lora_train.run.store import Unwritable, whole

Made = tuple[
    tuple[int, ...], torch.dtype, Callable[[], Tensor]
]  # a tensor of the new file, and what makes it
Told = Callable[[], None]

CLASSES = {
    "unet": ("diffusers", "UNet2DConditionModel"), "vae": ("diffusers", "AutoencoderKL"),
    "te1": ("transformers", "CLIPTextModel"), "te2": ("transformers", "CLIPTextModelWithProjection"),
}  # fmt: skip
TOKENIZERS = {"te1": "tokenizer", "te2": "tokenizer_2"}
VOCABULARY = pathlib.Path(__file__).parents[1] / "hosts" / "standalone" / "clip"
VERSION = "0.27.0"  # of diffusers, that has all that the JSON says
FOUR = re.compile(r"mid_block\.attentions\.0\.(to_q|to_k|to_v|to_out\.0)\.weight$")  # linear in diffusers
FULL = {"sd1": 64, "sd2": 64, "sdxl": 128}  # side of latents that pictures have where no size is asked for
FIRST = math.log(1 / 0.07)  # OpenCLIP's logit_scale, as it begins; nothing that draws reads it


def _tensor(part: Part, name: str, dtype: torch.dtype | None) -> Made:
    at = part.keys[name]
    stored = part.weights.dtypes[at.key]
    kind = dtype if dtype is not None and stored.is_floating_point else stored

    def make() -> Tensor:
        [(_, value)] = part.weights.read([at.key])
        return narrowed(at.of(value), kind, at.key).contiguous()

    return part.shape(name), kind, make


def _shaped(made: Made, shape: tuple[int, ...]) -> Made:
    return shape, made[1], lambda: made[2]().reshape(shape)


def _save(path: pathlib.Path, tensors: Mapping[str, Made], texts: Mapping[str, str], told: Told) -> None:
    def tensor(name: str) -> Tensor:
        told()
        return tensors[name][2]()

    write(path, {name: made[:2] for name, made in tensors.items()}, tensor, texts)


# ── a folder ────────────────────────────────────────────────────────────────────────────────────────────────


def write_folder(found: Found, to: pathlib.Path, dtype: torch.dtype | None, told: Told) -> None:
    """As diffusers' and transformers' `from_pretrained` read it. `to` is there when all of it is.

    Raises:
        Mistake: tensors are missing, or of shapes that do not fit.
        Unwritable: the folder cannot be written to, or the disk is full.
    """
    aside = to.with_name(to.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        for part, there in found.parts.items():
            folder, stem = FOLDERS[part]
            kept = [name for name in there.keys if "position_ids" not in name]
            if part == "te1":  # SD 2.x' has a projection, which nothing reads and transformers' model has not
                kept = [name for name in kept if name != config.PROJECTION]
            tensors = {_named(part, name): _flat(part, name, there, dtype) for name in kept}
            _save(aside / folder / f"{stem}.safetensors", tensors, {"format": "pt"}, told)
            _json(aside / folder / "config.json", _config(part, there, found.facts))
        for part, folder in TOKENIZERS.items():
            if part in found.parts:
                _tokenizer(
                    aside / folder, second=found.facts.arch != "sd1" and part == _open(found.facts.arch)
                )
        _json(aside / "scheduler" / "scheduler_config.json", _scheduler(found.facts))
        _json(aside / "model_index.json", _index(found))
        put(aside, to)
    except OSError as e:
        raise Unwritable(to, e) from e
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _open(arch: str) -> str:
    """The text encoder that is OpenCLIP's."""
    return next((part for part, (_, words) in TEXTS[arch].items() if words == OPEN_CLIP), "")


def _named(part: str, name: str) -> str:
    """transformers has its text encoder in a part of its own."""
    return f"text_model.{name}" if part.startswith("te") and name != config.PROJECTION else name


def _flat(part: str, name: str, there: Part, dtype: torch.dtype | None) -> Made:
    made = _tensor(there, name, dtype)
    shape = made[0]
    if part == "vae" and FOUR.match(name.partition(".")[2]) and len(shape) == 4:
        return _shaped(made, shape[:2])
    return made


def _config(part: str, there: Part, facts: Facts) -> dict[str, object]:
    library, kind = CLASSES[part]
    makers = {"unet": config.unet, "vae": config.vae, "te1": config.text}
    try:
        found = config.text(there, facts, second=True) if part == "te2" else makers[part](there, facts)
    except (KeyError, ValueError) as e:
        raise Mistake(f"{there.weights.path}: an unknown kind of {WORDS[part]} ({e})") from e
    if part == "unet":
        found["sample_size"] = 96 if (facts.arch, facts.prediction) == ("sd2", "v") else FULL[facts.arch]
    if part == "vae":
        found |= {"sample_size": 8 * FULL[facts.arch], "force_upcast": facts.arch == "sdxl"}
    if library == "transformers":
        return {**found, "architectures": [kind], "model_type": "clip_text_model", "layer_norm_eps": 1e-05}
    return {**found, "_class_name": kind, "_diffusers_version": VERSION}


def _tokenizer(folder: pathlib.Path, *, second: bool) -> None:
    """CLIP's; OpenCLIP's fills up with another token."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("vocab.json", "merges.txt"):
        with whole(folder / name) as part:
            shutil.copyfile(VOCABULARY / name, part)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        said = json.loads((VOCABULARY / name).read_text(encoding="utf-8"))
        _json(folder / name, {**said, **({"pad_token": "!"} if second else {})})


def _scheduler(facts: Facts) -> dict[str, object]:
    return {
        "_class_name": "EulerDiscreteScheduler" if facts.arch == "sdxl" else "DDIMScheduler",
        "_diffusers_version": VERSION, "beta_start": facts.start, "beta_end": facts.end,
        "beta_schedule": "scaled_linear", "num_train_timesteps": facts.steps,
        "prediction_type": "v_prediction" if facts.prediction == "v" else "epsilon", "steps_offset": 1,
        "clip_sample": False, "set_alpha_to_one": False, "trained_betas": None,
        "timestep_spacing": "trailing" if facts.last_is_noise else "leading",
        "rescale_betas_zero_snr": facts.last_is_noise,
    }  # fmt: skip


def _index(found: Found) -> dict[str, object]:
    paints = found.parts["unet"].shape("conv_in.weight")[1] == INPAINTING
    kind = f"StableDiffusion{'XL' if found.facts.arch == 'sdxl' else ''}{'Inpaint' if paints else ''}Pipeline"
    parts: dict[str, object] = {FOLDERS[part][0]: [*CLASSES[part]] for part in found.parts}
    parts |= {
        TOKENIZERS[part]: ["transformers", "CLIPTokenizer"] for part in found.parts if part in TOKENIZERS
    }
    parts["scheduler"] = ["diffusers", _scheduler(found.facts)["_class_name"]]
    nothing = [None, None]
    if found.facts.arch == "sdxl":
        more = {"feature_extractor": nothing, "image_encoder": nothing,
                "force_zeros_for_empty_prompt": found.facts.empty_is_zero}  # fmt: skip
    else:
        more = {"feature_extractor": nothing, "safety_checker": nothing, "requires_safety_checker": False}
    return {"_class_name": kind, "_diffusers_version": VERSION, **parts, **more}


def _json(path: pathlib.Path, said: Mapping[str, object]) -> None:
    with whole(path) as part:
        part.write_text(json.dumps(dict(said), indent=2) + "\n", encoding="utf-8")


# ── a file ──────────────────────────────────────────────────────────────────────────────────────────────────


def write_file(found: Found, to: pathlib.Path, dtype: torch.dtype | None, told: Told) -> None:
    """As LDM has it, and the WebUI reads it.

    Raises:
        Mistake: tensors are missing.
        Unwritable: the folder cannot be written to, or the disk is full.
    """
    facts, tensors = found.facts, {}
    for name in found.parts["unet"].keys:
        key = names.PREFIXES["unet"] + names.unet_to_ldm(name, facts.arch)
        tensors[key] = _tensor(found.parts["unet"], name, dtype)
    levels = names.levels(dict.fromkeys(found.parts["vae"].keys, 0))
    for name in found.parts["vae"].keys:
        made = _tensor(found.parts["vae"], name, dtype)
        if FOUR.match(name.partition(".")[2]) and len(made[0]) == 2:
            made = _shaped(made, (*made[0], 1, 1))
        tensors[names.PREFIXES["vae"] + names.vae_to_ldm(name, levels)] = made
    for part, (lead, words) in TEXTS[facts.arch].items():
        spelled = (
            _opened(found.parts[part], dtype) if words == OPEN_CLIP else _closed(found.parts[part], dtype)
        )
        tensors |= {lead + name: made for name, made in spelled.items()}
    if facts.prediction == "v" and facts.arch == "sdxl":  # by which loaders know it
        tensors["v_pred"] = (0,), torch.float32, lambda: torch.zeros(0)
    if facts.last_is_noise:
        tensors["ztsnr"] = (0,), torch.float32, lambda: torch.zeros(0)
    texts = {"format": "pt", "modelspec.prediction_type": facts.prediction}
    _save(to, tensors, texts, told)


def _closed(part: Part, dtype: torch.dtype | None) -> dict[str, Made]:
    """A text encoder with Hugging Face's names."""
    found = {
        f"text_model.{name}": _tensor(part, name, dtype) for name in part.keys if "position_ids" not in name
    }
    count = part.shape("embeddings.position_embedding.weight")[0]
    places = (1, count), torch.int64, lambda: torch.arange(count)[None]
    return {**found, "text_model.embeddings.position_ids": places}  # which the WebUI's transformers wants


def _opened(part: Part, dtype: torch.dtype | None) -> dict[str, Made]:
    """A text encoder with OpenCLIP's names; the last layer of SD 2.x', which nothing comes through and
    diffusers' folders have not, is the one before it once more."""
    towers = {theirs: own for own, theirs in TOWERS.items()}
    parts = {theirs: own for own, theirs in names.OPEN_CLIP.items()}
    found: dict[str, Made] = {}
    for name in part.keys:
        at = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if name in towers:
            made = _tensor(part, name, dtype)
            found[towers[name]] = _turned(made) if name == config.PROJECTION else made
        elif at and at[2].startswith("self_attn.") and at[2] != "self_attn.out_proj":
            joined = f"transformer.resblocks.{at[1]}.attn.in_proj_{at[3]}"
            found[joined] = found.get(joined) or _joined(part, name, at[2], dtype)
        elif at and at[2] in parts:
            found[f"transformer.resblocks.{at[1]}.{parts[at[2]]}.{at[3]}"] = _tensor(part, name, dtype)
    count = part.count(LAYER)
    if "text_projection" not in found:  # as of SD 2.x
        width = part.shape("embeddings.token_embedding.weight")[1]
        kind = next(iter(found.values()))[1]
        found["text_projection"] = (width, width), kind, lambda: torch.eye(width, dtype=kind)
        last = {k: made for k, made in found.items() if k.startswith(f"transformer.resblocks.{count - 1}.")}
        found |= {k.replace(f".{count - 1}.", f".{count}.", 1): made for k, made in last.items()}
    scale = torch.tensor(FIRST, dtype=next(iter(found.values()))[1])
    return {**found, "logit_scale": ((), scale.dtype, lambda: scale)}


def _turned(made: Made) -> Made:
    return made[0][::-1], made[1], lambda: made[2]().t().contiguous()


def _joined(part: Part, name: str, piece: str, dtype: torch.dtype | None) -> Made:
    """One weight for queries, keys and values; out of the file as it is, where it is one there already."""
    pieces = [_tensor(part, name.replace(piece, f"self_attn.{one}_proj"), dtype) for one in "qkv"]
    shape, kind, _ = pieces[0]
    return (3 * shape[0], *shape[1:]), kind, lambda: torch.cat([make() for _, _, make in pieces])
