"""Foreign options: what sd-scripts' flags mean here. One table, so that none is silently lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from lora_train.errors import Mistake
from lora_train.knobs import Setting, general, nearest
from lora_train.values import either, shown

Values = dict[str, object]

OFF = ("", "false", "none")
LATER = "not in this version"


@dataclasses.dataclass(frozen=True)
class Ignored:
    """Taken without effect; one line says so, unless it is given as off or as what is done anyway."""

    reason: str
    off: tuple[str, ...] = ()  # such values, beyond those that mean it everywhere


@dataclasses.dataclass(frozen=True)
class Refused:
    """Cannot be done, unless it is given with a value that means it is off."""

    reason: str = LATER
    off: tuple[str, ...] = ()  # such values, beyond those that mean it everywhere


@dataclasses.dataclass(frozen=True)
class Translated:
    """Means something here under other paths. The function raises Mistake where it does not."""

    into: Callable[[object], Values]


Rule = Ignored | Refused | Translated | str  # a path or flat name that means the same
BLANK = (None, "", "None")


def pairs(value: object) -> dict[str, str]:
    """`["conv_dim=4", "conv_alpha=1"]` -> {name: text}."""
    if value is True:  # the flag, and nothing after it
        return {}
    words = value if isinstance(value, list | tuple) else str(value).split()
    found = {}
    for word in words:
        name, equals, text = str(word).partition("=")
        if not equals:
            raise Mistake(f"{shown(word)}: expected name=value")
        found[name.strip()] = text.strip(" \"'()[]")
    return found


ARGUMENTS = (
    "conv_dim", "conv_alpha", "dropout", "rank_dropout", "module_dropout", "block_dims", "block_alphas",
    "conv_block_dims", "conv_block_alphas", "algo", "preset", "factor", "use_tucker", "decompose_both",
    "full_matrix",
)  # fmt: skip
CALLED = {"use_cp": "use_tucker"}  # LyCORIS' older name
ALGOS = {"lora": "lora", "locon": "lora", "loha": "loha", "lokr": "lokr"}  # its names of families
UNUSED = (  # arguments of LyCORIS that change nothing as long as they are off
    "bypass_mode", "dora_wd", "rank_dropout_scale", "rs_lora", "train_norm", "unbalanced_factorization",
    "use_scalar", "wd_on_output",
)  # fmt: skip
MODULES = {  # network_module -> what it means by itself; LyCORIS names the family among its arguments
    "networks.lora": {"network.kind": "lora"},
    "networks.loha": {"network.kind": "loha"},
    "networks.lokr": {"network.kind": "lokr"},
    "lycoris.kohya": {"network.preset": "full"},
}


def _network_args(value: object) -> Values:
    given = {CALLED.get(name, name): text for name, text in pairs(value).items()}
    found = {name: text for name, text in given.items() if not (name in UNUSED and off(text))}
    lost = [f"{name}={text}" for name, text in found.items() if name not in ARGUMENTS]
    if lost:
        raise Mistake(
            "\n".join(f"network_args {pair}: {LATER}; expected {either(ARGUMENTS)}" for pair in lost)
        )
    algo = found.pop("algo", None)
    if algo is not None and algo.lower() not in ALGOS:
        raise Mistake(f"network_args algo={algo}: {LATER}; expected {either(ALGOS)}")
    kind = {"network.kind": ALGOS[algo.lower()]} if algo else {}
    return {**kind, **{f"network.{name}": text for name, text in found.items()}}


def _network_module(value: object) -> Values:
    if str(value) not in MODULES:
        raise Mistake(f"network_module = {shown(value)}: {LATER}; expected {either(MODULES)}")
    return MODULES[str(value)]


def _optimizer_args(value: object) -> Values:
    return {f"optimizer.{name}": text for name, text in pairs(value).items()}


MOST = 2  # text encoders of a model


def _text_encoder_lr(value: object) -> Values:
    """Two are for SDXL's two; two that are the same are one, as kohya_ss writes it for every model."""
    rates = list(value) if isinstance(value, list | tuple) else [value]
    if not rates or len(rates) > MOST:
        raise Mistake(f"text_encoder_lr = {shown(value)}: expected a rate, or two for SDXL's text encoders")
    first, last = rates[0], rates[-1]
    second = {} if str(first) == str(last) else {"lr.text_encoder_lr2": last}
    return {"lr.text_encoder_lr": first, **second}


def _key(value: object) -> Values:
    """A key in a file; its value is never shown."""
    if off(value):
        return {}
    raise Mistake(
        "wandb_api_key: a file is easily passed on; give it on the command line, or as WANDB_API_KEY"
    )


def _only(name: str, *allowed: str) -> Translated:
    """For options of which only a value that changes nothing is there yet."""

    def into(value: object) -> Values:
        if str(value).lower() not in allowed:
            raise Mistake(f"{name} = {shown(value)}: {LATER}; expected {allowed[0]}")
        return {}

    return Translated(into)


def _unless_off(path: str) -> Translated:
    """For options whose 0 is sd-scripts' way to leave them unset."""
    return Translated(lambda value: {path: None if off(value) else value})


def _named(path: str) -> Translated:
    """For options whose empty name is sd-scripts' default."""
    return Translated(lambda value: {path: value} if value else {})


def _ignored(reason: str, *names: str, off: tuple[str, ...] = ()) -> dict[str, Ignored]:
    return dict.fromkeys(names, Ignored(reason, off))


FOREIGN: dict[str, Ignored | Refused | Translated] = {
    "network_args": Translated(_network_args),
    "network_module": Translated(_network_module),
    "optimizer_args": Translated(_optimizer_args),
    "optimizer_type": _named("optimizer.kind"),
    "text_encoder_lr": Translated(_text_encoder_lr),
    "min_snr_gamma": _unless_off("objective.min_snr_gamma"),
    "scale_weight_norms": _unless_off("network.scale_weight_norms"),
    "save_n_epoch_ratio": _unless_off("output.save_n_epoch_ratio"),
    "dataset_repeats": Translated(lambda value: {"data.num_repeats": value}),
    "caption_extention": _named("data.caption_extension"),
    "save_model_as": _only("save_model_as", "safetensors"),
    "loss_type": _only("loss_type", "l2"),
    "noise_offset_type": _only("noise_offset_type", "original"),  # kohya_ss' own
    **_ignored("max_train_steps or max_train_epochs says how long", "epoch"),  # kohya_ss' own
    **_ignored(
        "no schedule here has it", "lr_scheduler_num_cycles", "lr_scheduler_power", "lr_decay_steps",
        "lr_scheduler_timescale", "lr_scheduler_min_lr_ratio", off=("1", "1.0")),
    **_ignored("attention is torch's scaled_dot_product_attention", "sdpa", "xformers", "mem_eff_attn"),
    **_ignored("the CLIP vocabulary is part of this package", "tokenizer_cache_dir"),
    **_ignored(
        "pictures are cached, or loaded in a thread of their own", "max_data_loader_n_workers",
        "persistent_data_loader_workers", "cache_info"),
    **_ignored("weights are always loaded one by one", "lowram"),
    **_ignored("caches are kept only where they are needed", "highvram", "lowvram"),
    **_ignored("the autoencoder runs in float32", "no_half_vae"),
    **_ignored("a cached latent is known by all that made it", "skip_cache_check"),
    **_ignored("files are not mapped", "disable_mmap_load_safetensors"),
    **_ignored("the log is on stderr", "console_log_level", "console_log_file", "console_log_simple"),
    **_ignored(
        "gradients are added up in one go", "ddp_timeout", "ddp_gradient_as_bucket_view", "ddp_static_graph"),
    **_ignored("blocks are not compiled", "dynamo_backend", off=("no", "inductor")),
    **_ignored("the loss is l2", "huber_schedule", "huber_c", "huber_scale", off=("snr", "0.1", "1", "1.0")),
    **_ignored("there is no multires noise", "multires_noise_discount", off=("0.3",)),
    "wandb_api_key": Translated(_key),
    **_ignored(
        "there is no deepspeed", "zero_stage", "offload_optimizer_device", "offload_optimizer_nvme_path",
        "offload_param_device", "offload_param_nvme_path", "zero3_init_flag", "zero3_save_16bit_model",
        "fp16_master_weights_and_gradients", off=("2",)),
    "debug_dataset": Refused("lora-train check shows what would be trained on"),
    **_ignored("the checkpoint says what it is", "v2", "sdxl"),
    "full_fp16": Refused("adapters train in float32; use mixed_precision"),
    "full_bf16": Refused("adapters train in float32; use mixed_precision"),
    "network_multiplier": Refused(off=("1", "1.0")),
    **dict.fromkeys(
        (
            "fp8_base", "fp8_base_unet", "masked_loss", "alpha_mask", "conditioning_data_dir",
            "custom_attributes", "noise_offset_random_strength",
            "adaptive_noise_scale", "multires_noise_iterations", "ip_noise_gamma",
            "ip_noise_gamma_random_strength", "zero_terminal_snr", "debiased_estimation_loss",
            "v_pred_like_loss", "scale_v_pred_loss_like_noise_pred", "lr_scheduler_type",
            "lr_scheduler_args", "torch_compile", "deepspeed", "validation_split", "validation_seed",
            "validate_every_n_steps", "validate_every_n_epochs", "max_validation_steps", "base_weights",
            "base_weights_multiplier",
            "blocks_to_swap", "cpu_offload_checkpointing", "dataset_class",
            "initial_epoch", "initial_step", "skip_until_initial_step",
            "resume_from_huggingface", "huggingface_repo_id", "huggingface_repo_type",
            "huggingface_path_in_repo", "huggingface_token", "huggingface_repo_visibility",
            "save_state_to_huggingface", "async_upload", "use_8bit_adam", "use_lion_optimizer",
            "fused_backward_pass", "output_config",
        ),
        Refused(),
    ),
}  # fmt: skip

SEVERAL = ("text_encoder_lr",)  # settings of one value that sd-scripts takes more than one for

OF_DATASETS = (  # of them, those that a --dataset_config may hold
    "alpha_mask", "cache_info", "conditioning_data_dir", "custom_attributes", "network_multiplier",
    "validation_seed", "validation_split",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Said:
    """What words came to."""

    values: Values  # path -> value
    notes: tuple[str, ...]  # options without effect


@dataclasses.dataclass
class Heard:
    """What another program's file says, in names that `translate` takes."""

    words: Values = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)  # without effect
    refused: list[str] = dataclasses.field(default_factory=list)  # what would train something else

    def follow(self, found: Mapping[str, object], rules: Mapping[str, Rule]) -> None:
        """Take settings by a table of that program's names; of those it has not, one says so."""
        for name, value in found.items():
            rule = rules.get(name, Refused("no such setting here"))
            try:
                if isinstance(rule, str):
                    self.words.update({} if value in BLANK else {rule: value})
                elif isinstance(rule, Translated):
                    self.words.update(rule.into(value))
                elif not off(value, rule):
                    kept = self.notes if isinstance(rule, Ignored) else self.refused
                    kept += [f"{name} = {shown(value)}: {rule.reason}"] if rule.reason else []
            except Mistake as e:
                self.refused += str(e).splitlines()


def translate(words: Mapping[str, object], declared: Sequence[Setting]) -> Said:
    """Flat names, ours or sd-scripts', and paths -> {path: value}.

    Raises:
        Mistake: unknown or refused options; all of them.
    """
    paths = {s.path for s in declared}
    flat = {name: s.path for s in declared if ".N." not in s.path for name in s.aka}
    values: Values = {}
    notes, complaints = [], []
    for name, value in words.items():
        rule = FOREIGN.get(name)
        if general(name) in paths:
            values[name] = value
        elif isinstance(rule, Translated):
            try:
                values.update(rule.into(value))
            except Mistake as e:
                complaints.append(str(e))
        elif name in flat:
            values[flat[name]] = value
        elif isinstance(rule, Ignored):
            notes += [] if off(value, rule) else [f"{name} has no effect here: {rule.reason}"]
        elif isinstance(rule, Refused):
            complaints += [] if off(value, rule) else [f"{name} = {shown(value)}: {rule.reason}"]
        else:
            complaints.append(f"{name}: no such setting{nearest(name, known_names(declared))}")
    if complaints:
        raise Mistake("\n".join(complaints))
    return Said(values, tuple(notes))


def known_names(declared: Sequence[Setting]) -> list[str]:
    """What a name that is not known may have been meant to be: all but what would be refused."""
    flat = [name for s in declared if ".N." not in s.path for name in s.aka]
    useful = [name for name, rule in FOREIGN.items() if not isinstance(rule, Refused)]
    return [*flat, *useful, *(s.path for s in declared)]


def off(value: object, rule: Ignored | Refused | None = None) -> bool:
    """Whether an option that was given is given as switched off, or as a number that changes nothing."""
    if value is None or isinstance(value, list | tuple | dict):
        return not value
    word = str(value).lower()
    if word in OFF or (rule and word in rule.off):
        return True
    try:
        return float(word) == 0
    except ValueError:
        return False
