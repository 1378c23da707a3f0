"""OneTrainer: its configuration as JSON, in our names. Presets hold only what differs from its defaults."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

from lora_train.compat import LATER, Heard, Ignored, Refused, Rule, Translated, Values
from lora_train.errors import Mistake
from lora_train.knobs import settings
from lora_train.train.optim import OPTIMIZERS
from lora_train.train.optimizer import Moments
from lora_train.values import shown

DEFAULTS = {  # of those that a run depends on; ours are others
    "learning_rate": 3e-6, "learning_rate_scheduler": "CONSTANT", "learning_rate_warmup_steps": 200.0,
    "epochs": 100, "batch_size": 1, "lora_rank": 16, "lora_alpha": 1.0, "resolution": "512",
    "aspect_ratio_bucketing": True, "train_dtype": "FLOAT_16", "layer_filter_preset": "full",
    "unet": {}, "optimizer": {},
}  # fmt: skip
FORM = Ignored("")
SCHEDULES = {
    "constant": "constant", "linear": "linear", "cosine": "cosine", "rex": "rex", "adafactor": "adafactor",
    "cosine_with_hard_restarts": "cosine_with_restarts",
}  # fmt: skip
NAMES = {  # of optimizers, without their underscores
    "schedulefreeadamw": "adamwschedulefree", "schedulefreesgd": "sgdschedulefree",
}  # fmt: skip
TYPES = ("STABLE_DIFFUSION_15", "STABLE_DIFFUSION_20", "STABLE_DIFFUSION_20_BASE", "STABLE_DIFFUSION_21",
         "STABLE_DIFFUSION_21_BASE", "STABLE_DIFFUSION_XL_10_BASE")  # fmt: skip
PRECISIONS = {"FLOAT_32": "no", "TFLOAT_32": "no", "FLOAT_16": "fp16", "BFLOAT_16": "bf16"}


def is_config(found: Mapping[str, object]) -> bool:
    return "training_method" in found or ("model_type" in found and "base_model_name" in found)


def heard(found: Mapping[str, object]) -> Heard:
    """What such a file trains.

    Raises:
        Mistake: something else than a LoRA, or on a model of another family.
    """
    method, model = found.get("training_method", "FINE_TUNE"), found.get("model_type", TYPES[0])
    if method != "LORA":
        raise Mistake(f"training_method = {shown(method)}: {LATER}; expected LORA")
    if model not in TYPES:
        raise Mistake(f"model_type = {shown(model)}: only Stable Diffusion 1.x, 2.x and XL are trained here")
    left, out = {**DEFAULTS, **found}, Heard()
    _parts(left, out)
    _schedule(left, out)
    _optimizer(left, out)
    _loss(left, out)
    _masks(left, out)
    _concepts(left.pop("concepts", None), out)
    if left["layer_filter_preset"] == "full":
        out.words |= {"network.conv_dim": left["lora_rank"], "network.conv_alpha": left["lora_alpha"]}
    for what, path in (("sample_after", "output.sample_every_n_"), ("save_every", "output.save_every_n_")):
        _every(left, what, path, out)
    rest = sorted(name for name in left if name not in RULES and left[name] not in (None, "", False, [], {}))
    if rest:
        out.notes.append(f"of OneTrainer's own, without effect here: {', '.join(rest)}")
    out.follow({name: value for name, value in left.items() if name in RULES}, RULES)
    return out


def _parts(left: dict[str, object], out: Heard) -> None:
    """The UNet and the text encoders, each with what trains it."""
    unet, *texts = (_table(left.pop(name, {})) for name in ("unet", "text_encoder", "text_encoder_2"))
    trained = [text for text in texts if text.get("train", True)]
    xl = left.get("model_type") == TYPES[-1]
    if not any(text.get("train", True) for text in texts[: 1 + xl]):
        out.words["network.train_unet_only"] = True
    elif xl and len(trained) < len(texts):
        out.refused.append(f"text_encoder: one of SDXL's two alone: {LATER}; both train")
    if not unet.get("train", True):
        out.words["network.train_text_encoder_only"] = True
    rates = [("unet_lr", unet), ("text_encoder_lr", texts[0]), ("text_encoder_lr2", texts[1])]
    for name, part in rates if xl else rates[:2]:
        if part.get("learning_rate") and part.get("train", True):
            out.words[f"lr.{name}"] = part["learning_rate"]
    for name, part in (("unet", unet), ("text_encoder", texts[0])):
        if part.get("stop_training_after_unit", "NEVER") != "NEVER" and part.get("train", True):
            out.refused.append(f"{name}.stop_training_after = {part.get('stop_training_after')}: {LATER}")
    if dropped := texts[0].get("dropout_probability"):
        out.words["data.caption_dropout_rate"] = dropped
    out.words["place.gradient_checkpointing"] = unet.get("gradient_checkpointing", True) is not False


def _schedule(left: dict[str, object], out: Heard) -> None:
    name = str(left.pop("learning_rate_scheduler")).lower()
    warm = left.pop("learning_rate_warmup_steps") or 0
    cycles = left.pop("learning_rate_cycles", None) or 1
    if name not in SCHEDULES:
        some = "CONSTANT, LINEAR, COSINE, COSINE_WITH_HARD_RESTARTS, REX or ADAFACTOR"
        out.refused.append(f"learning_rate_scheduler = {name.upper()}: {LATER}; expected {some}")
        return
    name = SCHEDULES[name]
    if name == "cosine_with_restarts":
        out.words["lr.lr_scheduler_num_cycles"] = cycles
    warm = 0 if name == "adafactor" else warm
    out.words["lr.kind"] = "constant_with_warmup" if name == "constant" and warm else name
    if warm:
        out.words["lr.lr_warmup_steps"] = warm


def _optimizer(left: dict[str, object], out: Heard) -> None:
    found = _table(left.pop("optimizer", {}))
    name = str(found.get("optimizer") or "ADAMW").lower().replace("_", "")
    name = NAMES.get(name, name)
    if name not in OPTIMIZERS:
        out.refused.append(f"optimizer = {found.get('optimizer')}: {LATER}, and with it the learning rates")
        left.pop("learning_rate", None)
        for rate in ("lr.unet_lr", "lr.text_encoder_lr", "lr.text_encoder_lr2"):
            out.words.pop(rate, None)
        return
    out.words["optimizer.kind"] = name
    own = {s.name for s in settings(OPTIMIZERS[name])} - {"optimizer_args", "betas"}
    betas = [
        found[f"beta{i}"] for i in (1, 2, 3)[: OPTIMIZERS[name].BETAS] if found.get(f"beta{i}") is not None
    ]
    out.words |= {f"optimizer.{key}": found[key] for key in sorted(own) if found.get(key) is not None}
    if len(betas) == OPTIMIZERS[name].BETAS and issubclass(OPTIMIZERS[name], Moments):
        out.words["optimizer.betas"] = betas


def _loss(left: dict[str, object], out: Heard) -> None:
    name, strength = left.pop("loss_weight_fn", "CONSTANT"), left.pop("loss_weight_strength", 5.0)
    if name == "MIN_SNR_GAMMA":
        out.words["objective.min_snr_gamma"] = strength
    elif name == "DEBIASED_ESTIMATION":
        out.words["objective.debiased_estimation_loss"] = True
    elif name == "P2":
        out.words["objective.p2_gamma"] = strength
    elif name != "CONSTANT":
        out.refused.append(f"loss_weight_fn = {name}: of another kind of model; expected CONSTANT")
    strengths = {kind: left.get(f"{kind}_strength") or 0.0 for kind in ("mae", "log_cosh", "huber")}
    if left.get("mse_strength") == 0 and strengths == {"mae": 1.0, "log_cosh": 0.0, "huber": 0.0}:
        out.words["objective.loss_type"] = "l1"
        for kind in ("mae", "mse"):
            left.pop(f"{kind}_strength")
    kind = str(left.pop("timestep_distribution", "UNIFORM")).lower()
    numbers = {name: left.pop(name, None) for name in ("noising_weight", "noising_bias", "timestep_shift")}
    if kind != "uniform" or numbers["timestep_shift"] not in (None, 1, 1.0):
        numbers["timestep_distribution"] = kind
        out.words.update({f"objective.{name}": v for name, v in numbers.items() if v is not None})


def _masks(left: dict[str, object], out: Heard) -> None:
    """Mask files lie beside their pictures."""
    usual = {
        "unmasked_probability": 0.1, "unmasked_weight": 0.1, "normalize_masked_area_loss": False,
        "masked_prior_preservation_weight": 0.0,
    }  # fmt: skip
    given = {f"objective.{name}": left.pop(name, value) for name, value in usual.items()}
    if left.pop("masked_training", False):
        out.words |= {"objective.masked_loss": True, "data.mask_suffix": "-masklabel", **given}


def _every(left: dict[str, object], what: str, path: str, out: Heard) -> None:
    """A number and its unit, of which epochs and steps are known here."""
    count, unit = left.pop(what, 0), left.pop(f"{what}_unit", "NEVER")
    if unit in ("EPOCH", "STEP") and count:
        out.words[f"{path}{unit.lower()}s"] = int(count)
    elif unit not in ("NEVER", "EPOCH", "STEP") and count:
        out.notes.append(
            f"{what} = {count} {unit.lower()}s: counted in epochs or steps here; set {path}steps"
        )


def _concepts(found: object, out: Heard) -> None:
    """Folders of pictures, each with settings of its own."""
    used = (
        [c for c in found if isinstance(c, dict) and c.get("enabled", True)]
        if isinstance(found, list)
        else []
    )
    plain = []
    for concept in used:
        if concept.get("type", "STANDARD") in ("STANDARD", PRIOR):
            plain.append(concept)
        else:
            out.refused.append(f"concept {shown(concept.get('name'))} = {concept['type']}: {LATER}; left out")
    for i, concept in enumerate(plain):
        one = len(plain) == 1
        lead = "data." if one else f"data.datasets.0.subsets.{i}."
        out.words[f"{lead}{'train_data_dir' if one else 'image_dir'}"] = concept.get("path") or None
        if concept.get("type") == PRIOR:
            out.words[f"{lead}diff_output_preservation"] = True
        _concept(concept, lead, out)


def _concept(concept: Mapping[str, object], lead: str, out: Heard) -> None:
    image, text = _table(concept.get("image")), _table(concept.get("text"))
    share = concept.get("balancing", 1.0)
    samples = concept.get("balancing_strategy") == "SAMPLES"
    out.words[f"{lead}{'samples_per_epoch' if samples else 'num_repeats'}"] = int(share) if samples else share
    if image.get("enable_random_flip"):
        out.words[f"{lead}flip_aug"] = True
    if image.get("enable_random_rotate"):
        out.words[f"{lead}rotate_aug"] = image.get("random_rotate_max_angle")
    if text.get("enable_tag_shuffling"):
        out.words |= {f"{lead}shuffle_caption": True, f"{lead}keep_tokens": text.get("keep_tags_count", 1)}
    if text.get("tag_dropout_enable") and text.get("tag_dropout_mode") == "RANDOM":
        out.words[f"{lead}caption_tag_dropout_rate"] = text.get("tag_dropout_probability")
    name = shown(concept.get("name") or concept.get("path"))
    lost = [key for key in ("enable_fixed_flip", "enable_resolution_override") if image.get(key)]
    lost += ["prompt_source"] * (text.get("prompt_source", "sample") != "sample")
    lost += ["include_subdirectories"] * bool(concept.get("include_subdirectories"))
    lost += ["loss_weight"] * (concept.get("loss_weight", 1.0) != 1.0)
    out.refused += [f"concept {name}: {word}: {LATER}" for word in lost]


def _table(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _sizes(value: object) -> Values:
    sides = [side.strip().replace("x", ",") for side in str(value).split(",")]
    if len(sides) > 1:
        raise Mistake(f"resolution = {value}: expected one; for several make a dataset of each")
    return {"data.resolution": sides[0]}


def _saved(value: object) -> Values:
    """The name of the file; its folder is of another program."""
    return {"output.output_name": pathlib.PurePath(str(value)).stem} if value else {}


def _precision(path: str, full: str) -> Translated:
    def into(value: object) -> Values:
        found = PRECISIONS.get(str(value))
        return {path: full if found == "no" else found} if found else {}

    return Translated(into)


def _thousandth(path: str) -> Translated:
    return Translated(lambda value: {path: round(float(value) * 1000)})


def _only(names: Sequence[str]) -> Refused:
    return Refused(off=tuple(name.lower() for name in names))


MIXED = "one kind of loss at a time; objective.loss_type says which"
PRIOR = "PRIOR_PREDICTION"
RULES: dict[str, Rule] = {
    "learning_rate": "lr.learning_rate", "epochs": "training.max_train_epochs", "batch_size":
    "data.batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "resolution": Translated(_sizes), "aspect_ratio_bucketing": "data.enable_bucket",
    "latent_caching": Translated(
        lambda value: {f"place.{name}": bool(value) for name in ("cache_latents", "cache_latents_to_disk")}
    ),
    "lora_rank": "network.dim", "lora_alpha": "network.alpha", "dropout_probability": "network.dropout",
    "lora_model_name": "network.weights", "peft_type": _only(["lora"]), "lora_decompose": Refused(),
    "layer_filter_preset": _only(["full", "attn-mlp"]),
    "layer_filter": FORM, "layer_filter_regex": FORM,
    "train_dtype": _precision("training.mixed_precision", "no"),
    "output_dtype": _precision("output.save_precision", "float"),
    "output_model_destination": Translated(_saved),
    "clip_grad_norm": Translated(lambda value: {"training.max_grad_norm": value or 0.0}),
    "learning_rate_scaler": _only(["none"]), "learning_rate_min_factor": Refused(),
    "ema": _only(["off"]),
    "mae_strength": Refused(MIXED),
    "log_cosh_strength": Refused(MIXED),
    "huber_strength": Refused(MIXED),
    "mse_strength": Refused(MIXED, off=("1", "1.0")),
    "offset_noise_weight": "objective.noise_offset", "generalized_offset_noise": Refused(),
    "perturbation_noise_weight": Refused("it is in the target too; objective.ip_noise_gamma is seen alone"),
    "rescale_noise_scheduler_to_zero_terminal_snr": Translated(
        lambda value: {"model.zero_terminal_snr": True} if value else {}
    ),
    "force_v_prediction": Translated(lambda value: {"model.v_parameterization": True} if value else {}),
    "force_epsilon_prediction": Translated(
        lambda value: {"model.v_parameterization": False} if value else {}
    ),
    "min_noising_strength": _thousandth("objective.min_timestep"),
    "max_noising_strength": _thousandth("objective.max_timestep"),
    "custom_conditioning_image": Refused(),
    "text_encoder_layer_skip": Translated(lambda value: {"model.clip_skip": int(value) + 1} if value else {}),
    "force_circular_padding": Refused(), "additional_embeddings": Refused(), "validation": Refused(),
    "base_model_name": "model.pretrained_model_name_or_path",
    "tensorboard": Ignored("set output.log_with for it"),
    "concept_file_name": Ignored("its folders stand in that file, and not in this one"),
    **dict.fromkeys(
        ("training_method", "model_type", "secrets", "cloud", "__version", "vae", "embedding", "prior",
        "transformer",
         "text_encoder_3", "text_encoder_4", "effnet_encoder", "decoder", "decoder_text_encoder",
         "decoder_vqgan",
         "unconditional_transformer", "quantization", "optimizer_defaults", "workspace_dir", "cache_dir",
         "debug_dir",
         "debug_mode", "output_model_format", "train_device", "temp_device", "dataloader_threads",
         "clear_cache_before_training", "only_cache", "tensorboard_port", "tensorboard_expose",
         "attention_mechanism",
         "enable_autocast_cache", "fallback_train_dtype", "lora_weight_dtype", "huber_delta",
         "vb_loss_strength",
         "ema_decay", "ema_update_step_interval",
         "frames", "samples", "sample_definition_file_name",
         "backup_after", "backup_after_unit", "backup_before_save", "rolling_backup", "rolling_backup_count"),
        FORM),
}  # fmt: skip
