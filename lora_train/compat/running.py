"""Options of how a run goes on: memory, processes, files, logs."""

from __future__ import annotations

from lora_train.compat.rules import Refused, Rules, Translated, Values, ignored, off, only, unless_off
from lora_train.errors import Mistake


def _key(value: object) -> Values:
    """A key in a file; its value is never shown."""
    if off(value):
        return {}
    raise Mistake(
        "wandb_api_key: a file is easily passed on; give it on the command line, or as WANDB_API_KEY"
    )


RUNNING: Rules = {
    "save_n_epoch_ratio": unless_off("output.save_n_epoch_ratio"),
    "save_model_as": only("save_model_as", "safetensors"),
    **ignored("max_train_steps or max_train_epochs says how long", "epoch"),  # kohya_ss' own
    **ignored("attention is torch's scaled_dot_product_attention", "sdpa", "xformers", "mem_eff_attn"),
    **ignored("the CLIP vocabulary is part of this package", "tokenizer_cache_dir"),
    **ignored("weights are always loaded one by one", "lowram"),
    **ignored("caches are kept only where they are needed", "highvram", "lowvram"),
    **ignored("the autoencoder runs in float32", "no_half_vae"),
    **ignored("a cached latent is known by all that made it", "skip_cache_check"),
    **ignored("files are not mapped", "disable_mmap_load_safetensors"),
    **ignored("the log is on stderr", "console_log_level", "console_log_file", "console_log_simple"),
    **ignored(
        "gradients are added up in one go", "ddp_timeout", "ddp_gradient_as_bucket_view", "ddp_static_graph"),
    "wandb_api_key": Translated(_key),
    **ignored(
        "there is no deepspeed", "zero_stage", "offload_optimizer_device", "offload_optimizer_nvme_path",
        "offload_param_device", "offload_param_nvme_path", "zero3_init_flag", "zero3_save_16bit_model",
        "fp16_master_weights_and_gradients", off=("2",)),
    **ignored("the checkpoint says what it is", "v2", "sdxl"),
    "fp8_base": Translated(
        lambda v: {} if off(v) else {"model.quantized_base": "fp8", "model.quantized_text_encoder": True}
    ),
    "fp8_base_unet": Translated(lambda v: {} if off(v) else {"model.quantized_base": "fp8"}),
    "dynamo_backend": Translated(lambda v: {} if off(v) or v == "no" else {"place.dynamo_backend": v}),
    "full_fp16": Refused("adapters train in float32; use mixed_precision"),
    "full_bf16": Refused("adapters train in float32; use mixed_precision"),
    **dict.fromkeys(
        (
            "deepspeed", "blocks_to_swap", "initial_epoch", "initial_step", "skip_until_initial_step",
            "output_config",
        ),
        Refused(),
    ),
}  # fmt: skip

HUGGING_FACE: Rules = dict.fromkeys(
    (
        "resume_from_huggingface", "huggingface_repo_id", "huggingface_repo_type",
        "huggingface_path_in_repo", "huggingface_token", "huggingface_repo_visibility",
        "save_state_to_huggingface", "async_upload",
    ),
    Refused(),
)  # fmt: skip
