"""Foreign options: what sd-scripts' flags and files mean here. One table, so that none is silently lost."""

from __future__ import annotations

import dataclasses
import difflib
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from lora_train.errors import Mistake
from lora_train.knobs import Setting

Values = dict[str, object]

OFF = (None, False, "", "false", "False", "none", "None", (), 0, "0")
LATER = "not in this version"


@dataclasses.dataclass(frozen=True)
class Ignored:
    """Taken without effect; one line says so."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Refused:
    """Cannot be done, unless it is given with a value that means it is off."""

    reason: str = LATER
    off: tuple[object, ...] = ()


@dataclasses.dataclass(frozen=True)
class Translated:
    """Means something here under other paths. The function raises Mistake where it does not."""

    into: Callable[[object], Values]


def pairs(value: object) -> dict[str, str]:
    """`["conv_dim=4", "conv_alpha=1"]` -> {name: text}."""
    words = value if isinstance(value, list | tuple) else str(value).split()
    found = {}
    for word in words:
        name, equals, text = str(word).partition("=")
        if not equals:
            raise Mistake(f"{word}: expected name=value")
        found[name.strip()] = text.strip().strip("\"'")
    return found


ARGUMENTS = ("conv_dim", "conv_alpha", "dropout", "rank_dropout", "module_dropout", "block_dims", "block_alphas",
             "conv_block_dims", "conv_block_alphas")  # fmt: skip


def _network_args(value: object) -> Values:
    found = pairs(value)
    lost = [name for name in found if name not in ARGUMENTS]
    if lost:
        raise Mistake(
            "\n".join(f"network_args {name}: {LATER}; known: {', '.join(ARGUMENTS)}" for name in lost)
        )
    return {f"network.{name}": text for name, text in found.items()}


def _network_module(value: object) -> Values:
    if value != "networks.lora":
        raise Mistake(f"network_module = {value}: {LATER}; expected networks.lora")
    return {"network.kind": "lora"}


def _optimizer_args(value: object) -> Values:
    return {f"optimizer.{name}": text for name, text in pairs(value).items()}


def _text_encoder_lr(value: object) -> Values:
    rates = list(value) if isinstance(value, list | tuple) else [value]
    if len({str(rate) for rate in rates}) != 1:
        raise Mistake(f"text_encoder_lr = {value}: expected one rate; SD 1.x has one text encoder")
    return {"lr.text_encoder_lr": rates[0]}


def _dataset_config(value: object) -> Values:
    return read_dataset_config(pathlib.Path(str(value)))


def _only(name: str, *allowed: str) -> Translated:
    """For options of which only a value that changes nothing is there yet."""

    def into(value: object) -> Values:
        if str(value).lower() not in allowed:
            raise Mistake(f"{name} = {value}: {LATER}; expected {' or '.join(allowed)}")
        return {}

    return Translated(into)


SDPA = Ignored("attention is always torch's scaled_dot_product_attention")
PLAIN = Ignored("nothing to set: pictures are cached or loaded in a thread of their own")
QUIET = Ignored("the log is on stderr")

FOREIGN: dict[str, Ignored | Refused | Translated] = {
    "network_args": Translated(_network_args),
    "network_module": Translated(_network_module),
    "optimizer_args": Translated(_optimizer_args),
    "text_encoder_lr": Translated(_text_encoder_lr),
    "dataset_config": Translated(_dataset_config),
    "dataset_repeats": Translated(lambda value: {"data.num_repeats": value}),
    "save_model_as": _only("save_model_as", "safetensors"),
    "loss_type": _only("loss_type", "l2"),
    "caption_separator": _only("caption_separator", ","),
    "prior_loss_weight": _only("prior_loss_weight", "1", "1.0"),
    "token_warmup_min": _only("token_warmup_min", "1"),
    "lr_scheduler_num_cycles": _only("lr_scheduler_num_cycles", "1"),
    "lr_scheduler_power": _only("lr_scheduler_power", "1", "1.0"),
    "sdpa": SDPA, "xformers": SDPA, "mem_eff_attn": SDPA,
    "tokenizer_cache_dir": Ignored("the CLIP vocabulary is part of this package"),
    "max_data_loader_n_workers": PLAIN, "persistent_data_loader_workers": PLAIN, "cache_info": PLAIN,
    "lowram": Ignored("weights are always loaded one by one"), "highvram": Ignored("caches are kept only where needed"),
    "no_half_vae": Ignored("the autoencoder runs in float32"),
    "skip_cache_check": Ignored("a cached latent is checked by its content"),
    "disable_mmap_load_safetensors": Ignored("files are not mapped"),
    "console_log_level": QUIET, "console_log_file": QUIET, "console_log_simple": QUIET,
    "ddp_timeout": QUIET, "ddp_gradient_as_bucket_view": QUIET, "ddp_static_graph": QUIET,
    "dynamo_backend": Ignored("blocks are not compiled"),
    "huber_schedule": Ignored("the loss is l2"), "huber_c": Ignored("the loss is l2"),
    "huber_scale": Ignored("the loss is l2"), "multires_noise_discount": Ignored("there is no multires noise"),
    "v2": Refused("SD 2.x is not in this version"),
    "full_fp16": Refused("adapters train in float32; use mixed_precision"),
    "full_bf16": Refused("adapters train in float32; use mixed_precision"),
    **dict.fromkeys(
        (
            "fp8_base", "fp8_base_unet", "masked_loss", "alpha_mask", "reg_data_dir", "in_json", "metadata_file",
            "conditioning_data_dir", "is_reg", "custom_attributes", "color_aug", "random_crop", "face_crop_aug_range",
            "resize_interpolation", "enable_wildcard", "weighted_captions", "keep_tokens_separator",
            "secondary_separator", "caption_dropout_every_n_epochs", "token_warmup_step", "noise_offset_type",
            "noise_offset_random_strength", "adaptive_noise_scale", "multires_noise_iterations", "ip_noise_gamma",
            "ip_noise_gamma_random_strength", "zero_terminal_snr", "debiased_estimation_loss", "v_pred_like_loss",
            "scale_v_pred_loss_like_noise_pred", "lr_scheduler_type", "lr_scheduler_args", "lr_decay_steps",
            "lr_scheduler_timescale", "lr_scheduler_min_lr_ratio", "torch_compile", "deepspeed", "validation_split",
            "validation_seed", "validate_every_n_steps", "validate_every_n_epochs", "max_validation_steps",
            "base_weights", "base_weights_multiplier", "cache_text_encoder_outputs", "network_multiplier",
            "cache_text_encoder_outputs_to_disk", "cpu_offload_checkpointing", "blocks_to_swap", "dataset_class",
            "debug_dataset", "initial_epoch", "initial_step", "skip_until_initial_step", "save_n_epoch_ratio",
            "no_metadata", "metadata_author", "metadata_description", "metadata_license", "metadata_tags",
            "metadata_title", "resume_from_huggingface", "huggingface_repo_id", "huggingface_repo_type",
            "huggingface_path_in_repo", "huggingface_token", "huggingface_repo_visibility", "save_state_to_huggingface",
            "async_upload", "wandb_api_key", "wandb_run_name", "log_prefix", "log_tracker_name", "log_tracker_config",
            "log_config", "use_8bit_adam", "use_lion_optimizer", "fused_backward_pass", "output_config", "vae_approx",
            "enable_preview",
        ),
        Refused(),
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Said:
    """What words came to."""

    values: Values  # path -> value
    notes: tuple[str, ...]  # options without effect


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
        if name in paths or (name.startswith("data.datasets.") and any(c.isdigit() for c in name)):
            values[name] = value
        elif isinstance(rule, Translated):
            try:
                values.update(rule.into(value))
            except Mistake as e:
                complaints.append(str(e))
        elif name in flat:
            values[flat[name]] = value
        elif isinstance(rule, Ignored):
            notes += [f"{name} has no effect here: {rule.reason}"] if not off(value) else []
        elif isinstance(rule, Refused):
            complaints += [f"{name} = {shown(value)}: {rule.reason}"] if not off(value) else []
        else:
            complaints.append(f"{name}: no such setting{nearest(name, [*flat, *paths, *FOREIGN])}")
    if complaints:
        raise Mistake("\n".join(complaints))
    return Said(values, tuple(notes))


def off(value: object) -> bool:
    """Whether an option that was given is given as switched off."""
    if isinstance(value, float):
        return value == 0
    return not isinstance(value, list | dict) and value in OFF


def shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def read_toml(path: pathlib.Path) -> dict[str, object]:
    """Raises:
    Mistake: no such file, not UTF-8, or not TOML; with the line.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError as e:
            raise Mistake(
                f"{path}: reading TOML on Python 3.10 needs the package tomli; pip install tomli"
            ) from e
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as e:
        raise Mistake(f"{path}: expected a TOML file ({e.strerror})") from e
    except UnicodeDecodeError as e:
        raise Mistake(f"{path}: expected UTF-8 text; save it as UTF-8") from e
    except tomllib.TOMLDecodeError as e:
        raise Mistake(f"{path}: not TOML: {e}") from e


def read_config(path: pathlib.Path, declared: Sequence[Setting]) -> Values:
    """sd-scripts' --config_file: flat names, in sections that are headings only; sections that spell a path,
    such as [network] with dim, are read too."""
    return dict(_entries(read_toml(path), "", {s.path for s in declared}))


def _entries(table: Mapping[str, object], lead: str, paths: set[str]) -> Iterator[tuple[str, object]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _entries(value, f"{lead}{name}.", paths)
        else:
            yield (lead + name if lead + name in paths else name), value


def read_dataset_config(path: pathlib.Path) -> Values:
    """sd-scripts' --dataset_config -> paths under `data`."""
    tables = read_toml(path)
    found: Values = {}
    complaints = [
        f"{path}: {name}: expected [general] and [[datasets]]"
        for name in tables.keys() - {"general", "datasets"}
    ]
    if not isinstance(tables.get("datasets"), list) or not tables["datasets"]:
        complaints.append(f"{path}: expected at least one [[datasets]] with a [[datasets.subsets]]")
    else:
        for i, dataset in enumerate(tables["datasets"]):
            complaints += _level(path, dataset, f"data.datasets.{i}", found, skip=("subsets",))
            for j, subset in enumerate(dataset.get("subsets", [])):
                complaints += _level(path, subset, f"data.datasets.{i}.subsets.{j}", found)
    complaints += _level(path, tables.get("general", {}), "data", found)
    if complaints:
        raise Mistake("\n".join(complaints))
    return found


def _level(
    path: pathlib.Path, table: Mapping[str, object], lead: str, found: Values, skip: Sequence[str] = ()
) -> list[str]:
    """One table's entries into `found`; returns what is wrong with them."""
    complaints = []
    for name, value in table.items():
        rule = FOREIGN.get(name)
        if name in skip:
            continue
        if isinstance(rule, Refused) and not off(value):
            complaints.append(f"{path}: {name} = {shown(value)}: {rule.reason}")
        elif isinstance(rule, Translated):
            try:
                rule.into(value)
            except Mistake as e:
                complaints.append(f"{path}: {e}")
        elif rule is None:
            found[f"{lead}.{name}"] = value
    return complaints
