"""The Dreambooth extension: its list of concepts and its db_config.json, in our names."""

from __future__ import annotations

from collections.abc import Mapping

from lora_train.compat import Heard, Ignored, Refused, Rule, Translated, Values
from lora_train.values import shown

CONTENTS = {  # its words for what captions hold
    "Description": "description",
    "Instance Token + Description": "instance",
    "Class Token + Description": "class",
    "Instance Token + Class Token + Description": "both",
}
OPTIMIZERS = {  # its names that are not sd-scripts'
    "8bit AdamW": "AdamW8bit", "8Bit Adam": "AdamW8bit", "Torch AdamW": "AdamW",
    "Paged 8bit AdamW": "PagedAdamW8bit", "8bit Lion": "Lion8bit", "AdamW Dadaptation": "DAdaptAdam",
    "Adan Dadaptation": "DAdaptAdan", "SGD Dadaptation": "DAdaptSGD", "Lion Dadaptation": "DAdaptLion",
    "AdaGrad Dadaptation": "DAdaptAdaGrad",
}  # fmt: skip
SCHEDULES = {
    "linear_with_warmup": "linear", "cosine_annealing": "cosine",
    "cosine_annealing_with_restarts": "cosine_with_restarts",
}  # fmt: skip
FORM = Ignored("")  # of its form, of how it starts, and of checkpoints


def is_config(found: Mapping[str, object]) -> bool:
    return isinstance(found.get("concepts_list"), list) and ("model_dir" in found or len(found) == 1)


def heard(found: Mapping[str, object]) -> Heard:
    """What such a file trains."""
    left, out = dict(found), Heard()
    concepts = [one for one in left.pop("concepts_list") if isinstance(one, dict)]
    used = [one for one in concepts if one.get("instance_data_dir")]
    for number, concept in enumerate(used):
        _concept(concept, number, out)
    if path := left.pop("concepts_path", None):
        out.refused.append(f"concepts_path = {shown(path)}: a file beside; import it as well")
    if len(found) > 1:
        _rates(left, out)
        _length(left, out)
        out.follow({name.removeprefix("db_"): value for name, value in left.items()}, RULES)
    return out


def _concept(concept: Mapping[str, object], number: int, out: Heard) -> None:
    """One folder of the subject, a subset of one dataset."""
    own = Heard()
    own.follow(concept, CONCEPT)
    out.words |= {f"data.datasets.0.subsets.{number}.{name}": value for name, value in own.words.items()}
    for line in own.notes:
        out.notes.append(f"concepts_list {number + 1}: {line}")
    for line in own.refused:
        out.refused.append(f"concepts_list {number + 1}: {line}")


def _rates(left: dict[str, object], out: Heard) -> None:
    """Of a LoRA, which has rates of its own beside those of the whole model."""
    lora = left.pop("use_lora", False)
    unet, text = left.pop("lora_learning_rate", None), left.pop("lora_txt_learning_rate", None)
    for name in ("learning_rate", "txt_learning_rate"):
        left.pop(name, None)
    if not lora:
        out.refused.append("use_lora = false: a LoRA is trained all the same, at the rates that are for one")
    for path, rate in (("lr.learning_rate", unet), ("lr.unet_lr", unet), ("lr.text_encoder_lr", text)):
        if rate:
            out.words[path] = rate
    stop = left.pop("stop_text_encoder", 1.0)
    if _number(stop) == 0:
        out.words["network.train_unet_only"] = True
        out.words.pop("lr.text_encoder_lr", None)
    elif _number(stop) < 1:  # a share of the run
        out.words["training.stop_text_encoder_training"] = stop
    _layers(left, out)


def _layers(left: dict[str, object], out: Heard) -> None:
    """What goes with other settings alone."""
    if left.get("lr_scheduler") == "constant":
        left.pop("lr_warmup_steps", None)
    if left.pop("use_dream", False):
        out.words["objective.dream_detail_preservation"] = left.get("dream_detail_preservation")
    text_rank, rank = left.pop("lora_txt_rank", None), left.get("lora_unet_rank")
    if left.pop("use_lora_extended", False) and rank:
        out.words |= {"network.conv_dim": rank, "network.conv_alpha": rank}
    if text_rank not in (None, rank):
        out.notes.append(f"lora_txt_rank = {shown(text_rank)}: one rank for all, that of the UNet")


def _length(left: dict[str, object], out: Heard) -> None:
    """Steps win over epochs."""
    steps, epochs = (_number(left.pop(name, 0)) for name in ("max_train_steps", "num_train_epochs"))
    if steps > 0:
        out.words["training.max_train_steps"] = int(steps)
    elif epochs > 0:
        out.words["training.max_train_epochs"] = int(epochs)


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return 0.0


def _above(path: str) -> Translated:
    """For numbers of which 0 and less mean off."""
    return Translated(lambda value: {path: value} if _number(value) > 0 else {})


def _flag(path: str, when: bool = True) -> Translated:
    return Translated(lambda value: {path: value} if value is when else {})


def _rank(value: object) -> Values:
    """Its scale is 1 at any rank."""
    return {"network.dim": value, "network.alpha": value} if _number(value) > 0 else {}


def _per(value: object) -> Values:
    return {"num_class_images_per": int(_number(value))} if _number(value) > 0 else {}


SAMPLES = Ignored("samples come from output.sample_prompts, a file; [filewords] is read there")
CONCEPT: dict[str, Rule] = {
    "instance_data_dir": "image_dir", "class_data_dir": "class_data_dir",
    "instance_prompt": "instance_prompt", "class_prompt": "class_prompt",
    "instance_token": "instance_token", "class_token": "class_token",
    "file_prompt_contents": Translated(
        lambda value: {"file_prompt_contents": CONTENTS[str(value)]} if str(value) in CONTENTS else {}
    ),
    "num_class_images": _above("num_class_images"), "num_class_images_per": Translated(_per),
    "class_negative_prompt": "class_negative_prompt", "class_guidance_scale": "class_guidance_scale",
    "class_infer_steps": "class_infer_steps",
    **dict.fromkeys(("save_sample_prompt", "save_sample_template", "save_sample_negative_prompt"), SAMPLES),
    **dict.fromkeys(
        ("n_save_sample", "sample_seed", "save_guidance_scale", "save_infer_steps", "is_valid"), FORM),
    "max_steps": Ignored("one length for all; set training.max_train_steps", off=("-1",)),
}  # fmt: skip
RULES: dict[str, Rule] = {
    "lora_unet_rank": Translated(_rank), "resolution": "data.resolution",
    "train_batch_size": "data.batch_size", "gradient_accumulation_steps":
    "training.gradient_accumulation_steps", "gradient_checkpointing": "place.gradient_checkpointing",
    "cache_latents": "place.cache_latents", "mixed_precision": "training.mixed_precision",
    "optimizer": Translated(lambda value: {"optimizer_type": OPTIMIZERS.get(str(value), str(value))}),
    "weight_decay": "optimizer.weight_decay",
    "tenc_weight_decay": Ignored("one weight decay for all"),
    "lr_scheduler": Translated(lambda value: {"lr.kind": SCHEDULES.get(str(value), str(value))}),
    "lr_warmup_steps": _above("lr.lr_warmup_steps"),
    "max_token_length": "model.max_token_length", "clip_skip": "model.clip_skip",
    "min_snr_gamma": _above("objective.min_snr_gamma"), "offset_noise": _above("objective.noise_offset"),
    "prior_loss_weight": "data.prior_loss_weight", "prior_loss_scale": "data.prior_loss_scale",
    "prior_loss_target": "data.prior_loss_target", "prior_loss_weight_min": "data.prior_loss_weight_min",
    "hflip": _flag("data.flip_aug"), "shuffle_tags": _flag("data.shuffle_caption"),
    "train_unet": _flag("network.train_text_encoder_only", when=False),
    "save_embedding_every": _above("output.save_every_n_epochs"),
    "save_preview_every": _above("output.sample_every_n_epochs"),
    "model_name": "output.output_name", "lora_model_name": Ignored("", off=("",)),
    "src": "model.pretrained_model_name_or_path", "pretrained_vae_name_or_path": "model.vae",
    "save_state_during": _flag("output.save_state"),
    "save_state_after": _flag("output.save_state_on_train_end"),
    "pad_tokens": Ignored("captions are always filled up to their full length", off=("true",)),
    "center_crop": Ignored("pictures are cut in the middle, unless random_crop is set"),
    "class_batch_size": Ignored("pictures of the class are drawn one by one", off=("1",)),
    "sample_batch_size": Ignored("pictures are drawn one by one", off=("1",)),
    "tenc_grad_clip_norm": Refused(), "ema_predict": Refused(), "freeze_spectral_norm": Refused(),
    "use_ema": Ignored("an average of weights is set by itself"),
    "train_imagic": Refused(),
    "disable_class_matching": Ignored("pictures of the class count by their prompt"),
    "tomesd": Ignored("attention is computed whole"), "dynamic_img_norm": Refused(),
    "strict_tokens": Refused("captions are read as they stand", off=()),
    "sanity_prompt": SAMPLES,
    "learning_rate_min": Ignored("the schedule says where its rate ends"),
    **dict.fromkeys(("lr_cycles", "lr_factor", "lr_power", "lr_scale_pos"),
                    Ignored("set it with the schedule that has it", off=("1", "1.0", "0.5"))),
    **dict.fromkeys(
        ("attention", "custom_model_name", "deterministic", "disable_logging", "epoch",
         "epoch_pause_frequency", "epoch_pause_time", "freeze_clip_normalization", "full_mixed_precision",
         "gradient_set_to_none", "graph_smoothing", "half_model", "has_ema", "infer_ema", "initial_revision",
         "input_pertubation", "lifetime_revision", "lora_weight", "lora_use_buggy_requires_grad", "model_dir",
         "model_path", "model_type", "noise_scheduler", "pretrained_model_name_or_path", "revision",
         "sanity_seed", "save_ckpt_after", "save_ckpt_cancel", "save_ckpt_during", "save_ema",
         "save_lora_after", "save_lora_cancel", "save_lora_during", "save_lora_for_extra_net",
         "save_safetensors", "save_state_cancel", "scheduler", "shared_diffusers_path", "snapshot",
         "split_loss", "train_unfrozen", "use_concepts", "use_shared_src", "use_subdir", "v2",
         "dream_detail_preservation"),
        FORM),
}  # fmt: skip
