"""Options of how a run goes on: memory, processes, files, logs."""

from __future__ import annotations

from lora_train.compat.rules import (
    Refused,
    Rules,
    Translated,
    Values,
    ignored,
    named,
    off,
    only,
    unless_off,
)
from lora_train.errors import Mistake


def _key(name: str, variable: str) -> Translated:
    """A key in a file; its value is never shown."""

    def into(value: object) -> Values:
        if off(value):
            return {}
        raise Mistake(f"{name}: a file is easily passed on; give it on the command line, or as {variable}")

    return Translated(into)


def _stop(value: object) -> Values:
    """-1 is never to begin, 0 never to stop."""
    if str(value).strip() in ("-1", "-1.0"):
        return {"network.train_unet_only": True}
    return {} if off(value) else {"training.stop_text_encoder_training": value}


RUNNING: Rules = {
    "save_n_epoch_ratio": unless_off("output.save_n_epoch_ratio"),
    "save_model_as": only("save_model_as", "safetensors"),
    **ignored("max_train_steps or max_train_epochs says how long", "epoch"),  # kohya_ss' own
    **ignored("attention is torch's scaled_dot_product_attention", "sdpa", "xformers", "mem_eff_attn"),
    **ignored("the CLIP vocabulary is part of this package", "tokenizer_cache_dir"),
    **ignored("weights are always loaded one by one", "lowram"),
    **ignored("caches are kept only where they are needed", "highvram", "lowvram"),
    **ignored("a cached latent is known by all that made it", "skip_cache_check"),
    **ignored("files are not mapped", "disable_mmap_load_safetensors"),
    **ignored("the log is on stderr", "console_log_level", "console_log_file", "console_log_simple"),
    **ignored(
        "gradients are added up in one go", "ddp_timeout", "ddp_gradient_as_bucket_view", "ddp_static_graph"),
    "wandb_api_key": _key("wandb_api_key", "WANDB_API_KEY"),
    "stop_text_encoder_training": Translated(_stop),
    **ignored("a run that begins at initial_step always skips what comes before", "skip_until_initial_step"),
    **ignored(
        "adapters and their gradients stay in float32, and the model is in mixed_precision", "full_fp16",
        "full_bf16"),
    **ignored(
        "there is no deepspeed", "zero_stage", "offload_optimizer_device", "offload_optimizer_nvme_path",
        "offload_param_device", "offload_param_nvme_path", "zero3_init_flag", "zero3_save_16bit_model",
        "fp16_master_weights_and_gradients", off=("2",)),
    **ignored("the checkpoint says what it is", "v2", "sdxl", "train_inpainting"),
    "fp8_base": Translated(
        lambda v: {} if off(v) else {"model.quantized_base": "fp8", "model.quantized_text_encoder": True}
    ),
    "fp8_base_unet": Translated(lambda v: {} if off(v) else {"model.quantized_base": "fp8"}),
    "dynamo_backend": Translated(lambda v: {} if off(v) or v == "no" else {"place.dynamo_backend": v}),
    "deepspeed": Refused(
        "many cards each hold the whole model here, started by torchrun or accelerate; to save memory set "
        "gradient_checkpointing or quantized_base"),
    "blocks_to_swap": Refused(
        "blocks stay on the card; to save memory set gradient_checkpointing, cpu_offload_checkpointing or "
        "quantized_base"),
    "stages": Refused("runs of one job are begun by lora-train train, with the --config_file that has them"),
    "output_config": Refused("expected --config_file beside it, the file to write to, on the command line"),
}  # fmt: skip

HUGGING_FACE: Rules = {
    "huggingface_token": _key("huggingface_token", "HF_TOKEN"),
    "huggingface_repo_type": named("output.hub.repo_type"),
    "huggingface_repo_visibility": named("output.hub.repo_visibility"),
    "resume_from_huggingface": Refused(
        "expected resume = user/name/folder beside it, on the command line or in its --config_file"
    ),
}
