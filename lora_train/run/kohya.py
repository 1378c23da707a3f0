"""kohya_ss: the JSON of its LoRA tab, in sd-scripts' names."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from lora_train.compat import FOREIGN, LATER, Heard, network
from lora_train.errors import Mistake
from lora_train.train.optim import OPTIMIZERS, named
from lora_train.values import either, shown

OFF = ("", "None", "none", "0", "0.0", None, False, 0)  # what kohya_ss leaves out of what it passes on
FORM = (  # of its form and of how it starts sd-scripts
    "save_as_bool", "file_path", "model_list", "num_cpu_threads_per_process", "num_processes", "num_machines",
    "multi_gpu", "gpu_ids", "main_process_port", "dynamo_backend", "dynamo_mode", "dynamo_use_fullgraph",
    "dynamo_use_dynamic", "extra_accelerate_launch_args", "stop_text_encoder_training",
    "stop_text_encoder_training_pct", "caption_metadata_filename", "latent_metadata_filename", "full_path",
    "create_caption", "create_buckets", "image_folder", "sdxl_checkbox", "use_latent_files", "weights",
    "no_token_padding", "learning_rate_te", "learning_rate_te1", "learning_rate_te2",
    "generate_caption_database", "generate_image_buckets", "train_text_encoder",
)  # fmt: skip
OTHERS = "only Stable Diffusion 1.x, 2.x and XL are trained here"
FAMILIES = ("flux1", "sd3", "hunyuan_image", "anima", "lumina")
ELSEWHERE = (  # of other models than these, and of no meaning where their box is not ticked
    "model_type", "ae", "clip_l", "clip_g", "t5xxl", "discrete_flow_shift", "model_prediction_type",
    "timestep_sampling", "split_mode", "train_blocks", "t5xxl_max_token_length", "enable_all_linear",
    "guidance_scale", "mem_eff_save", "apply_t5_attn_mask", "split_qkv", "train_t5xxl", "t5xxl_lr",
    "single_blocks_to_swap", "double_blocks_to_swap", "show_timesteps", "show_timesteps_resolution",
    "img_attn_dim", "img_mlp_dim", "img_mod_dim", "single_dim", "txt_attn_dim", "txt_mlp_dim", "txt_mod_dim",
    "single_mod_dim", "in_dims", "train_double_block_indices", "train_single_block_indices",
    "clip_g_dropout_rate", "logit_mean", "logit_std", "mode_scale", "pos_emb_random_crop_rate", "save_clip",
    "save_t5xxl", "t5xxl_device", "t5xxl_dtype", "weighting_scheme", "train_lora_ggpo", "ggpo_sigma",
    "ggpo_beta",
)  # fmt: skip
OF_OTHERS = tuple(f"{name}_" for name in ("hunyuan", *FAMILIES))  # so their own settings begin
BLOCKS = ("block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas")
PACES = ("down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold")
DROPS = ("rank_dropout", "module_dropout")
SIZES = ("conv_dim", "conv_alpha")
NATIVE = (*BLOCKS, *PACES, *DROPS)
LYCORIS = ("preset", *SIZES, *DROPS, "use_tucker", "train_norm")
SCALED = (*LYCORIS, "rank_dropout_scale", "bypass_mode", "dora_wd", "use_scalar")
RATIOS = ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")  # of every type
TYPES = {  # LoRA_type -> network_module, LyCORIS' algorithm, what of the form goes into network_args
    "Standard": ("networks.lora", None, NATIVE),
    "Kohya LoCon": ("networks.lora", None, (*SIZES, *NATIVE)),
    "Kohya DyLoRA": ("networks.dylora", None, (*SIZES, *NATIVE, "unit")),
    "LoRA-FA": ("networks.lora_fa", None, NATIVE),
    "Kohya LoHa": ("networks.loha", None, (*SIZES, *DROPS, "use_tucker")),
    "Kohya LoKr": ("networks.lokr", None, (*SIZES, *DROPS, "use_tucker", "factor")),
    "LyCORIS/LoCon": ("lycoris.kohya", "locon", SCALED),
    "LyCORIS/LoHa": ("lycoris.kohya", "loha", SCALED),
    "LyCORIS/LoKr": ("lycoris.kohya", "lokr", (*SCALED, "factor", "use_cp", "decompose_both")),
    "LyCORIS/iA3": ("lycoris.kohya", "ia3", ("preset", *SIZES, "train_on_input")),
    "LyCORIS/Diag-OFT": ("lycoris.kohya", "diag-oft", (*LYCORIS, "rank_dropout_scale", "constrain",
                                                       "rescaled")),
    "LyCORIS/BOFT": ("lycoris.kohya", "boft", (*LYCORIS, "rank_dropout_scale")),
    "LyCORIS/GLoRA": ("lycoris.kohya", "glora", (*LYCORIS, "rank_dropout_scale")),
    "LyCORIS/DyLoRA": ("lycoris.kohya", "dylora", (*LYCORIS, "unit")),
    "LyCORIS/Native Fine-Tuning": ("lycoris.kohya", "full", ("preset", *DROPS, "train_norm",
                                                             "rank_dropout_scale")),
}  # fmt: skip
EVERY = (*dict.fromkeys((*NATIVE, *SCALED, "unit", "factor", "use_cp", "decompose_both", "train_on_input",
                         "constrain", "rescaled")),)  # fmt: skip
RATES = ("learning_rate", "unet_lr", "text_encoder_lr")


def is_gui(found: Mapping[str, object]) -> bool:
    """Whether an object is a configuration of kohya_ss' LoRA tab."""
    return "LoRA_type" in found or ("network_dim" in found and "max_resolution" in found)


def heard(found: Mapping[str, object]) -> Heard:
    """What such a configuration trains, as kohya_ss itself would start it."""
    gui = Gui(found)
    for part in (
        gui.family,
        gui.kind,
        gui.rates,
        gui.length,
        gui.optimizer,
        gui.noise,
        gui.pictures,
        gui.extra,
    ):
        part()
    return gui.rest()


class Gui:
    """A configuration, of which what was read is gone."""

    def __init__(self, found: Mapping[str, object]):
        self.left = dict(found)
        self.heard = Heard()

    def take(self, name: str) -> object:
        """Its value; None where it is off."""
        value = self.left.pop(name, None)
        return None if value in OFF or value == [] else value

    def number(self, name: str) -> float:
        """As kohya_ss reads it: what is no number is 0."""
        try:
            return float(self.take(name) or 0)
        except (TypeError, ValueError):
            return 0.0

    def refuse(self, name: str, value: object, why: str = LATER) -> None:
        self.heard.refused.append(f"{name} = {shown(value)}: {why}")

    def family(self) -> None:
        for name in FAMILIES:
            if self.take(f"{name}_checkbox"):
                self.refuse(f"{name}_checkbox", True, OTHERS)
        self.left = {k: v for k, v in self.left.items() if not k.startswith(OF_OTHERS) and k not in ELSEWHERE}
        xl = self.left.get("sdxl")
        if xl and self.take("clip_skip"):
            self.heard.notes.append("clip_skip: SDXL always takes the last but one layer, also in sd-scripts")
        for name in ("cache_text_encoder_outputs", "no_half_vae"):
            if self.take(f"sdxl_{name}") and xl:
                self.heard.words[name] = True

    def kind(self) -> None:
        """The type of LoRA, and of its settings those that it has."""
        asked = str(self.left.pop("LoRA_type", "Standard"))
        kind = {"LoCon": "LyCORIS/LoCon"}.get(asked, asked)
        self.left["preset"] = self.left.pop("LyCORIS_preset", None)
        words = {name: self.take(name) for name in EVERY}
        ratios = {name: self.take(name) for name in RATIOS}
        if kind not in TYPES:
            self._unknown("LoRA_type", kind, either(TYPES))
            return
        module, algo, names = TYPES[kind]
        given = [("algo", algo), *((name, words[name]) for name in names), *ratios.items()]
        self.arguments(module, {name: v for name, v in given if v is not None}, ("LoRA_type", kind))

    def arguments(self, module: str, given: Mapping[str, object], asked: tuple[str, str]) -> None:
        """What a module of sd-scripts or LyCORIS means with these of its arguments.

        Args:
            asked: the name and the value that ask for it, for a refusal.
        """
        try:
            paths = {**network.module(module)}
            paths |= network.argument("algo", given["algo"]) if "algo" in given else {}
        except Mistake as e:
            self._unknown(*asked, str(e).rpartition("expected ")[2])
            return
        for name, value in given.items():
            try:
                paths |= network.argument(name, value)
            except Mistake as e:
                self.heard.refused.append(str(e))
            if name in network.WITHOUT and value:
                self.heard.notes.append(f"{name} has no effect here: {network.WITHOUT[name]}")
        sizes = {"network.dim": self.take("network_dim"), "network.alpha": self.take("network_alpha")}
        paths |= {path: value for path, value in sizes.items() if value is not None}
        said = [f"{name}={value}" for name, value in given.items()]
        self.heard.notes += network.finished({"network_module": module, "network_args": said}, paths)
        self.heard.words |= paths

    def _unknown(self, name: str, value: str, there: str) -> None:
        """Ranks and rates mean something else there."""
        own = (*RATES, "network_dim", "network_alpha")
        self.left = {key: left for key, left in self.left.items() if key not in own}
        self.refuse(name, value, f"{LATER}, and with it ranks and rates; expected {there}")

    def rates(self) -> None:
        text, unet = self.left.pop("text_encoder_lr", None), self.number("unet_lr")
        given = [rate for rate in (text if isinstance(text, list) else [text]) if rate not in OFF]
        try:
            rates = [float(rate) for rate in given]
        except (TypeError, ValueError):
            self.refuse("text_encoder_lr", text, "expected a rate, or two for SDXL's text encoders")
            rates = []
        words = self.heard.words
        if rates:
            words["text_encoder_lr"] = rates
        if unet:
            words["unet_lr"] = unet
        if unet and not rates:
            words["network_train_unet_only"] = True
        if rates and not unet:
            words["network_train_text_encoder_only"] = True
        if rate := self.number("learning_rate"):
            words["learning_rate"] = rate
        steps, percent = self.number("lr_warmup_steps"), self.number("lr_warmup")
        if warm := steps or percent / 100:
            if self.left.get("lr_scheduler") == "constant":
                self.heard.notes.append("lr_warmup: the constant schedule has no warm-up")
            else:
                words["lr_warmup_steps"] = warm

    def length(self) -> None:
        """Epochs hold over steps; where neither is said, the epochs of its first page."""
        steps, epochs = int(self.number("max_train_steps")), int(self.number("max_train_epochs"))
        own = int(self.number("epoch"))
        if cycles := int(self.number("lr_scheduler_num_cycles")) or own:  # empty: as many as epochs
            self.heard.words["lr_scheduler_num_cycles"] = cycles
        if epochs or (own and not steps):
            self.heard.words["max_train_epochs"] = epochs or own
        elif steps:
            self.heard.words["max_train_steps"] = steps

    def optimizer(self) -> None:
        """Its name, and what its class is given; one that there is not is refused with what there is."""
        eight = self.take("use_8bit_adam")
        name = str(self.take("optimizer") or ("AdamW8bit" if eight else "AdamW"))
        args = self.take("optimizer_args")
        if named(name)["optimizer.kind"] in OPTIMIZERS:
            self.heard.words["optimizer_type"] = name
        else:  # it has rates of its own, which are too high or low for another
            lost = [rate for rate in RATES if self.heard.words.pop(rate, None) is not None]
            more = f", and with it {', '.join(lost)}" if lost else ""
            self.refuse("optimizer", name, f"{LATER}{more}")
            args = None
        if args:
            texts = args if isinstance(args, list) else str(args).replace('"', "").replace("'", "").split()
            self.heard.words["optimizer_args"] = texts
        if schedule := self.take("lr_scheduler_args"):
            words = schedule if isinstance(schedule, list) else str(schedule).split()
            self.heard.words["lr_scheduler_args"] = words

    def noise(self) -> None:
        kind = str(self.take("noise_offset_type") or "Original").lower()
        unused = (
            ("multires_noise_iterations", "multires_noise_discount")
            if kind == "original"
            else ("noise_offset", "noise_offset_random_strength", "adaptive_noise_scale")
        )
        for name in unused:
            self.left.pop(name, None)

    def pictures(self) -> None:
        words = self.heard.words
        if size := self.take("max_resolution"):
            words["resolution"] = size
        if "cache_latents" in self.left:
            words["cache_latents"] = bool(self.take("cache_latents"))
        kind = self.take("xformers")
        if kind:
            words["sdpa" if kind == "sdpa" else "xformers"] = True
        prompts = self.take("sample_prompts")
        if prompts and re.fullmatch(r"[^\n]+\.(txt|toml|json)", str(prompts).strip()):
            words["sample_prompts"] = prompts
        elif prompts:
            self.heard.notes.append(
                "sample_prompts: a text; put it into a .txt file, one prompt a line, and give that"
            )

    def extra(self) -> None:
        """What is typed behind the command line, and names of earlier versions."""
        if key := self.take("huggingface_token"):
            self.heard.follow({"huggingface_token": key}, FOREIGN)  # which never shows it
        if self.take("use_wandb"):
            self.heard.words["log_with"] = "wandb"
        if file := self.take("lora_network_weights"):
            self.heard.words["network_weights"] = file
        name, given = None, {}
        try:
            parts = shlex.split(str(self.take("additional_parameters") or ""))
        except ValueError as e:
            self.heard.refused.append(f"additional_parameters: cannot be read ({e})")
            return
        for part in parts:
            if part.startswith("--"):
                name, _, value = part[2:].partition("=")
                given[name] = [value] if value else []
            elif name:
                given[name].append(part)
        for name, texts in given.items():
            self.heard.words[name] = True if not texts else texts[0] if len(texts) == 1 else texts

    def rest(self) -> Heard:
        own = [
            name for name in FORM if self.take(name) is not None and name not in ("file_path", "model_list")
        ]
        if own:
            self.heard.notes.append(f"of kohya_ss' own form, without effect here: {', '.join(own)}")
        for name in list(self.left):
            if (value := self.take(name)) is not None:
                self.heard.words.setdefault(name, value)
        return self.heard
