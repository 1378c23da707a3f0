"""TrainTrain: the JSON of its tab, in our names. Everything in it is a text, a box or a list."""

from __future__ import annotations

from collections.abc import Mapping

from lora_train.compat import LATER, Heard, Ignored, Refused, Rule, Translated, Values
from lora_train.errors import Mistake
from lora_train.run import edits
from lora_train.train.lr import SCHEDULERS
from lora_train.train.optim import OPTIMIZERS, named
from lora_train.values import shown

BLOCKS = ["BASE", *(f"IN{i:02}" for i in range(12)), "M00", *(f"OUT{i:02}" for i in range(12))]
PRECISIONS = {
    "fp32": "no",
    "float32": "no",
    "fp16": "fp16",
    "float16": "fp16",
    "bf16": "bf16",
    "bfloat16": "bf16",
}
SCHEDULES = {"cosine_annealing": "cosine"}
CLASSES = {  # of torch
    "cosine_annealing_with_restarts": "CosineAnnealingWarmRestarts", "exponential": "ExponentialLR",
    "step": "StepLR", "multi_step": "MultiStepLR", "cyclic": "CyclicLR",
}  # fmt: skip
FORM = Ignored("")  # of its form or of another mode, and no word worth


def is_config(found: Mapping[str, object]) -> bool:
    return "train_iterations" in found and "network_rank" in found


def heard(found: Mapping[str, object]) -> Heard:
    """What such a file trains.

    Raises:
        Mistake: it is for a mode that there is not.
    """
    out = Heard()
    left = edits.traintrain({name.partition("(")[0].strip(): value for name, value in found.items()}, out)
    kind = str(left.pop("network_type", "lierla") or "lierla")
    if kind == "c3lier":  # its convolutions have a rank of their own where that is not 0
        for name in ("rank", "alpha"):
            own = str(left.get(f"network_conv_{name}") or "0")
            out.words[f"network.conv_{'dim' if name == 'rank' else name}"] = (
                own if float(own) else left.get(f"network_{name}")
            )
    elif kind == "loha":
        out.words["network.kind"] = "loha"
    elif kind != "lierla":
        out.refused.append(f"network_type = {shown(kind)}: expected lierla, c3lier or loha")
    for name in ("network_conv_rank", "network_conv_alpha"):
        left.pop(name, None)
    if str(left.get("train_lr_scheduler")) == "constant":
        left.pop("train_lr_warmup_steps", None)
    _optimizer(left, out)
    out.follow(left, RULES)
    return out


def _optimizer(left: dict[str, object], out: Heard) -> None:
    """One that is not here has rates of its own, and they go with it."""
    name = str(left.pop("train_optimizer", "") or "adamw")
    found = named(name)
    if found["optimizer.kind"] in OPTIMIZERS:
        out.words |= found
        return
    out.refused.append(f"train_optimizer = {name}: {LATER}, and with it the learning rates")
    for rate in ("train_learning_rate", "train_textencoder_learning_rate", "train_optimizer_settings"):
        left.pop(rate, None)


def _size(value: object) -> Values:
    """Height before width."""
    sides = [side.strip() for side in str(value).split(",") if side.strip()]
    return {"data.resolution": ",".join(reversed(sides))} if sides else {}


def _blocks(value: object) -> Values:
    """Names of those that train; BASE is the text encoder."""
    names = value if isinstance(value, list) else []
    found: Values = {} if "BASE" in names else {"network.train_unet_only": True}
    if not set(BLOCKS[1:]) <= set(names):
        found["network.block_weights"] = ",".join(
            str(int(name in names or name == "BASE")) for name in BLOCKS
        )
    return found


def _precision(value: object) -> Values:
    if str(value) not in PRECISIONS:
        raise Mistake(f"train_model_precision = {shown(value)}: {LATER}; expected fp32, fp16 or bf16")
    return {"training.mixed_precision": PRECISIONS[str(value)]}


def _saved(value: object) -> Values:
    kinds = {"no": "float"}
    found = PRECISIONS.get(str(value))
    return {"output.save_precision": kinds.get(found, found)} if found else {}


def _above(path: str, off: float = 0) -> Translated:
    """For numbers of which one means off."""

    def into(value: object) -> Values:
        try:
            number = float(str(value))
        except ValueError:
            return {}
        return {path: str(value)} if number > off else {}

    return Translated(into)


def _flag(path: str) -> Translated:
    return Translated(lambda value: {path: True} if value is True else {})


def _kind(value: object) -> Values:
    """Of a loss."""
    kinds = {"": {}, "mse": {}, "l1": {"objective.loss_type": "l1"}}
    if (word := str(value or "").lower()) not in kinds:
        raise Mistake(f"train_loss_function = {shown(value)}: expected MSE or L1")
    return kinds[word]


def _course(name: str) -> Values:
    if name in CLASSES:
        return {"lr.lr_scheduler_type": CLASSES[name]}
    if name not in (*SCHEDULES, *SCHEDULERS):
        raise Mistake(f"train_lr_scheduler = {name}: {LATER}; expected one such as cosine")
    return {"lr.kind": SCHEDULES.get(name, name)}


def _settings(value: object) -> Values:
    text = str(value or "").strip()
    return {"lr.lr_scheduler_args": [part.strip() for part in text.split(",")]} if text else {}


def _arguments(value: object) -> Values:
    text = str(value or "").strip()
    return {"optimizer_args": [part.strip() for part in text.split(",")]} if text else {}


RULES: dict[str, Rule] = {
    "network_rank": "network.dim", "network_alpha": "network.alpha",
    "network_element": Refused(off=("full",)),
    "network_blocks": Translated(_blocks),
    "network_resume": "network.weights",
    "network_strength": Ignored("a saved file acts as it was trained", off=("1", "1.0")),
    "network_train_text_encoder": FORM,
    "lora_data_directory": "data.train_data_dir", "lora_trigger_word": "data.trigger_word",
    "image_size": Translated(_size),
    "image_buckets_step": Translated(
        lambda value: {"data.enable_bucket": True, "data.bucket_reso_steps": value}
        if value not in ("0", 0) else {}
    ),
    "image_min_length": "data.min_bucket_reso",
    "image_max_ratio": Ignored("buckets are bounded by their sides, min_bucket_reso and max_bucket_reso"),
    "image_num_multiply": _above("data.num_repeats", 1),
    "image_mirroring": _flag("data.flip_aug"),
    "image_use_filename_as_tag": Refused("captions are read from files beside the pictures"),
    "image_disable_upscale": Ignored("small pictures are enlarged, and said so"),
    "image_use_transparent_background_ajust": Ignored("transparent parts are laid on data.transparent_color"),
    "sub_image_num": Refused(),
    "train_iterations": "training.max_train_steps", "train_batch_size": "data.batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "train_learning_rate": "lr.learning_rate", "train_textencoder_learning_rate":
    _above("lr.text_encoder_lr"),
    "train_optimizer_settings": Translated(_arguments),
    "train_lr_scheduler": Translated(
        lambda value: _course(str(value)) if value else {}
    ),
    "train_lr_scheduler_settings": Translated(_settings),
    "train_lr_warmup_steps": _above("lr.lr_warmup_steps"),
    "train_lr_step_rules": Translated(
        lambda value: {"lr.lr_scheduler_args": [f"step_rules={value}"]} if value else {}
    ),
    "train_lr_scheduler_num_cycles": _above("lr.lr_scheduler_num_cycles"),
    "train_lr_scheduler_power": _above("lr.lr_scheduler_power"),
    "train_seed": _above("training.seed", -1),
    "train_min_timesteps": "objective.min_timestep", "train_max_timesteps": "objective.max_timestep",
    "train_snr_gamma": _above("objective.min_snr_gamma"),
    "train_loss_function": Translated(_kind),
    "train_fixed_timsteps_in_batch": _flag("objective.fixed_timesteps_in_batch"),
    "train_model_precision": Translated(_precision),
    "train_lora_precision": Ignored("adapters train in float32", off=("fp32", "float32")),
    "train_VAE_precision": FORM,
    "save_lora_name": "output.output_name", "save_precision": Translated(_saved),
    "save_per_steps": _above("output.save_every_n_steps"),
    "use_gradient_checkpointing": _flag("place.gradient_checkpointing"),
    "model_v_pred": _flag("model.v_parameterization"),
    "model": Ignored("the model is the one that is loaded"), "vae": Ignored("the VAE is the loaded one"),
    "logging_use_tensorboard": Translated(
        lambda value: {"output.log_with": "tensorboard"} if value is True else {}
    ),
    "logging_dir": "output.logging_dir",
    **dict.fromkeys(
        ("mode", "save_overwrite", "save_as_json", "logging_verbose", "logging_save_csv", "logging_use_wandb",
         "use_2nd_pass_settings", "2nd pass", "diff_target_name", "diff_save_1st_pass", "diff_1st_pass_only",
         "diff_load_1st_pass", "diff_revert_original_target", "diff_use_diff_mask", "diff_use_fixed_noise",
         "diff_alt_ratio", "original prompt", "target prompt", "lora_train_targets", "train_repeat",
         "train_use_bucket", "train_optimizer_args", "gen_noise_scheduler"),
        FORM),
}  # fmt: skip
