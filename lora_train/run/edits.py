"""Edits: settings of other programs that change what a model knows, rather than teach it pictures."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

from lora_train.compat import Heard
from lora_train.errors import Mistake
from lora_train.objectives.lines import read_lines
from lora_train.run import kohya
from lora_train.values import numeral, shown

KINDS = {"LoRA": "denoise", "iLECO": "erase", "Difference": "difference", "ADDifT": "addift",
         "Multi-ADDifT": "addift"}  # fmt: skip
PICTURES = ("lora_data_directory", "lora_trigger_word", "image_buckets_step", "image_min_length",
            "image_num_multiply", "image_mirroring", "image_max_ratio", "sub_image_num",
            "image_use_filename_as_tag", "image_disable_upscale",
            "image_use_transparent_background_ajust")  # fmt: skip
STRENGTH = 0.25  # at which TrainTrain learns a pair
LEARN = "give the two pictures as objective.original_image and objective.target_image"


def traintrain(found: Mapping[str, object], out: Heard) -> dict[str, object]:
    """What of TrainTrain's settings is as for LoRA, once its mode's own have gone into `out`.

    Args:
        found: by their bare names.

    Raises:
        Mistake: no such mode.
    """
    mode = str(found.get("mode", "LoRA") or "LoRA")
    if mode not in KINDS:
        raise Mistake(f"mode = {shown(mode)}: expected {', '.join(KINDS)}")
    left = dict(found)
    if mode == "LoRA":
        return left
    out.words["objective.kind"] = KINDS[mode]
    if mode != "Multi-ADDifT":
        for name in PICTURES:
            left.pop(name, None)
    if mode == "iLECO":
        _instant(left, out)
    elif mode == "Difference":
        left = _difference(left, out)
    else:
        _addift(left, out, alone=mode == "ADDifT")
    return left


def _instant(left: dict[str, object], out: Heard) -> None:
    """The original prompt is drawn as the target prompt; where that is empty it is erased."""
    words = {"instant": True, "action": "replace", "target": left.pop("original prompt", ""),
             "positive": left.pop("target prompt", "")}  # fmt: skip
    out.words |= {f"objective.{name}": value or "" for name, value in words.items()}
    out.words["network.train_unet_only"] = True


def _addift(left: dict[str, object], out: Heard, *, alone: bool) -> None:
    words: dict[str, object] = {}
    for name in ("diff_revert_original_target", "diff_use_diff_mask"):
        if left.pop(name, False) is True:
            words[name] = True
    if (ratio := _number(left.pop("diff_alt_ratio", ""))) is not None:
        words["diff_alt_ratio"] = ratio
    suffix = left.pop("diff_target_name", "")
    if alone:
        words |= {"original_prompt": left.pop("original prompt", "") or None,
                  "target_prompt": left.pop("target prompt", "") or None}  # fmt: skip
        out.notes.append(f"mode = ADDifT: {LEARN}")
    else:
        words["pair_suffix"] = suffix
    out.words |= {f"objective.{name}": value for name, value in words.items() if value is not None}
    _strength(left, out)


def _strength(left: dict[str, object], out: Heard) -> None:
    """Its saved file acts so many times as it was trained: so alpha is as much larger, and the strength at
    which is learned as much smaller."""
    times, alpha = _number(left.pop("network_strength", "")), _number(left.get("network_alpha", ""))
    if times and times != 1:
        left["network_alpha"] = numeral((1.0 if alpha is None else alpha) * times)
        out.words["objective.pair_strength"] = STRENGTH / times


def _difference(left: dict[str, object], out: Heard) -> dict[str, object]:
    """Its settings are those of the first pass; the second has its own where that is ticked."""
    if left.pop("diff_1st_pass_only", False) is True:
        out.refused.append("diff_1st_pass_only: train the picture with objective.kind = denoise")
    words = {
        "original_prompt": left.pop("original prompt", ""), "copier": left.pop("diff_load_1st_pass", ""),
        "copier_steps": left.get("train_iterations"), "copier_dim": left.get("network_rank"),
        "copier_alpha": left.get("network_alpha"), "copier_learning_rate": left.get("train_learning_rate"),
        "target_prompt": left.pop("target prompt", ""),
        "force_consistent_noise": True if left.pop("diff_use_fixed_noise", False) is True else None,
    }  # fmt: skip
    words["target_prompt"] = words["original_prompt"]  # which both passes have
    out.words |= {f"objective.{name}": value for name, value in words.items() if value not in ("", None)}
    out.notes.append(f"mode = Difference: {LEARN}")
    second = left.pop("2nd pass", None)
    if left.pop("use_2nd_pass_settings", False) is True and isinstance(second, Mapping):
        own = {name.partition("(")[0].strip(): value for name, value in second.items()}
        own = {name: value for name, value in own.items() if name not in PICTURES and value != ""}
        named = left.get("save_lora_name")
        left |= {**own, "save_lora_name": own.get("save_lora_name") or named}
    return left


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


# ── kohya_ss' LECO tab ──────────────────────────────────────────────────────────────────────────────────────

OWN = ("prompts_file", "max_denoising_steps", "leco_denoise_guidance_scale")


def is_leco(found: Mapping[str, object]) -> bool:
    return "prompts_file" in found and "leco_denoise_guidance_scale" in found


def leco(found: Mapping[str, object]) -> Heard:
    """What kohya_ss' LECO tab trains; prompts or sliders, as its file of prompts says.

    Raises:
        Mistake: the file of prompts cannot be read.
    """
    gui = kohya.Gui({name: value for name, value in found.items() if name not in OWN})
    for part in (gui.family, gui.kind, gui.rates, gui.length, gui.optimizer, gui.pictures, gui.extra):
        part()
    gui.heard.words["network.train_unet_only"] = True
    gui.heard.words.pop("network_train_unet_only", None)
    file = str(found.get("prompts_file") or "")
    kind = "erase"
    if file and pathlib.Path(file).is_file():
        kind = _kind(pathlib.Path(file))
    gui.heard.words |= {"objective.kind": kind, "objective.prompts_file": file or None}
    for name, path in (("max_denoising_steps", "max_denoising_steps"),
                       ("leco_denoise_guidance_scale", "denoise_guidance_scale")):  # fmt: skip
        if found.get(name) not in kohya.OFF:
            gui.heard.words[f"objective.{path}"] = found[name]
    return gui.rest()


def _kind(file: pathlib.Path) -> str:
    try:
        read_lines(file, "prompts")
    except Mistake as e:
        if "objective.kind = slider" in str(e):
            return "slider"
        raise
    return "erase"
