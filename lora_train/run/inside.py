"""Inside a LoRA: what sd-scripts wrote into its metadata of how it was trained, in sd-scripts' names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from lora_train.compat import Heard
from lora_train.run.kohya import Gui

SAID = {  # what sd-scripts calls it in a file -> its option
    "ss_output_name": "output_name", "ss_learning_rate": "learning_rate", "ss_unet_lr": "unet_lr",
    "ss_text_encoder_lr": "text_encoder_lr", "ss_network_dim": "network_dim",
    "ss_network_alpha": "network_alpha", "ss_network_dropout": "network_dropout",
    "ss_lr_scheduler": "lr_scheduler", "ss_lr_warmup_steps": "lr_warmup_steps",
    "ss_gradient_checkpointing": "gradient_checkpointing",
    "ss_gradient_accumulation_steps": "gradient_accumulation_steps", "ss_max_train_steps": "max_train_steps",
    "ss_mixed_precision": "mixed_precision", "ss_seed": "seed", "ss_clip_skip": "clip_skip",
    "ss_max_token_length": "max_token_length", "ss_max_grad_norm": "max_grad_norm",
    "ss_min_snr_gamma": "min_snr_gamma", "ss_noise_offset": "noise_offset",
    "ss_caption_dropout_rate": "caption_dropout_rate",
    "ss_caption_dropout_every_n_epochs": "caption_dropout_every_n_epochs",
    "ss_caption_tag_dropout_rate": "caption_tag_dropout_rate", "ss_prior_loss_weight": "prior_loss_weight",
    "ss_scale_weight_norms": "scale_weight_norms", "ss_training_comment": "training_comment",
    "ss_v2": "v2", "ss_full_fp16": "full_fp16", "ss_loss_type": "loss_type",
    "ss_ip_noise_gamma": "ip_noise_gamma", "ss_zero_terminal_snr": "zero_terminal_snr",
    "ss_debiased_estimation": "debiased_estimation_loss", "ss_masked_loss": "masked_loss",
    "ss_multires_noise_iterations": "multires_noise_iterations",
    "ss_multires_noise_discount": "multires_noise_discount", "ss_huber_schedule": "huber_schedule",
    "ss_huber_c": "huber_c", "ss_huber_scale": "huber_scale",
    "ss_noise_offset_random_strength": "noise_offset_random_strength",
    "ss_ip_noise_gamma_random_strength": "ip_noise_gamma_random_strength",
    "ss_adaptive_noise_scale": "adaptive_noise_scale", "ss_resolution": "resolution",
    "ss_batch_size_per_device": "train_batch_size", "ss_enable_bucket": "enable_bucket",
    "ss_min_bucket_reso": "min_bucket_reso", "ss_max_bucket_reso": "max_bucket_reso",
    "ss_bucket_no_upscale": "bucket_no_upscale", "ss_flip_aug": "flip_aug", "ss_color_aug": "color_aug",
    "ss_random_crop": "random_crop", "ss_shuffle_caption": "shuffle_caption",
    "ss_keep_tokens": "keep_tokens", "ss_validation_split": "validation_split",
    "ss_validation_seed": "validation_seed", "ss_max_validation_steps": "max_validation_steps",
    "ss_validate_every_n_epochs": "validate_every_n_epochs",
    "ss_validate_every_n_steps": "validate_every_n_steps",
}  # fmt: skip
NATIVE = "networks.lora"
OF_DATASET = ("resolution", "enable_bucket", "min_bucket_reso", "max_bucket_reso", "bucket_no_upscale")
OF_SUBSET = ("flip_aug", "color_aug", "random_crop", "shuffle_caption", "keep_tokens")


def told(texts: Mapping[str, str]) -> Heard:
    """What a file that sd-scripts trained says of how it was made: as much as it wrote down."""
    gui = Gui({name: texts[key] for key, name in SAID.items() if key in texts})
    _dataset(gui, texts)
    name, _, _ = str(gui.left.get("lr_scheduler") or "").partition(":")  # adafactor:1e-4
    if name:
        gui.left["lr_scheduler"] = name
    if gui.left.get("lr_scheduler") == "constant":
        gui.left.pop("lr_warmup_steps", None)
    for name in ("learning_rate", "unet_lr"):
        if (rate := gui.number(name)) > 0:
            gui.heard.words[name] = rate
    if rates := _rates(gui.take("text_encoder_lr")):
        gui.heard.words["text_encoder_lr"] = rates
    module = {"network.lora": NATIVE}.get(name := texts.get("ss_network_module", NATIVE), name)
    given = _arguments(texts.get("ss_network_args", ""))
    given = {name: value for name, value in given.items() if value is not None}
    gui.arguments(module, given, ("network_module", module))
    _optimizer(gui, texts.get("ss_optimizer", ""))
    gui.heard.notes.append("read from the file's metadata, which has no folders and not all settings")
    return gui.rest()


def _rates(text: object) -> list[float]:
    """A number, or as many as there are text encoders: "[5e-05, 1e-05]"."""
    try:
        rates = [float(word) for word in str(text).strip("[]").split(",")]
    except ValueError:
        return []
    return rates if min(rates) > 0 else []


def _optimizer(gui: Gui, text: str) -> None:
    """`torch.optim.adamw.AdamW(weight_decay=0.1,betas=(0.9, 0.99))`."""
    if found := re.fullmatch(r"([\w.]+?)(?:\((.*)\))?", text, re.DOTALL):
        gui.left["optimizer"] = found[1]
        gui.left["optimizer_args"] = re.sub(r",\s*(?=\w+=)", " ", found[2] or "").replace(", ", ",")
        gui.optimizer()


def _arguments(text: str) -> dict[str, object]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = {}
    return found if isinstance(found, dict) else {}


def _dataset(gui: Gui, texts: Mapping[str, str]) -> None:
    """Of several datasets the first: where they are many, nothing else is written down in one word."""
    try:
        first = json.loads(texts.get("ss_datasets", ""))[0]
    except (ValueError, LookupError, TypeError):
        first = {}
    if isinstance(first, dict):
        subset = next(iter(first.get("subsets") or []), {})
        gui.left |= {name: first[name] for name in OF_DATASET if name in first}
        gui.left |= {name: subset[name] for name in OF_SUBSET if name in subset}
        if "batch_size_per_device" in first:
            gui.left["train_batch_size"] = first["batch_size_per_device"]
    size = gui.left.get("resolution")
    if isinstance(size, str) and size.startswith("("):
        gui.left["resolution"] = size.strip("()")
