"""Every option of sd-scripts' two scripts, and every key of a kohya_ss JSON: taken, or it says what it is."""

import pathlib

import pytest

from lora_train.compat import FOREIGN, Ignored, Refused, translate
from lora_train.errors import Mistake
from lora_train.job import declared
from lora_train.manual import foreign
from lora_train.options import FETCH, FILES, KEYS, WRITE
from lora_train.run import kohya
from tests.test_compat import DEFAULTS, FLAGS, KNOWN, VALUED

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "compatibility.md").read_text(encoding="utf-8")
SDXL = ("cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk", "disable_mmap_load_safetensors")
# the parameters of `save_configuration` in kohya_ss' lora_gui.py, at 45088f0
PARAMETERS = """
    save_as_bool file_path pretrained_model_name_or_path v2 v_parameterization sdxl flux1_checkbox
    dataset_config save_model_as save_precision train_data_dir output_name model_list training_comment
    logging_dir reg_data_dir output_dir max_resolution learning_rate lr_scheduler lr_warmup
    lr_warmup_steps train_batch_size epoch save_every_n_epochs seed cache_latents cache_latents_to_disk
    train_inpainting caption_extension enable_bucket stop_text_encoder_training min_bucket_reso
    max_bucket_reso max_train_epochs max_train_steps lr_scheduler_num_cycles lr_scheduler_power
    optimizer optimizer_args lr_scheduler_args lr_scheduler_type max_grad_norm mixed_precision
    num_cpu_threads_per_process num_processes num_machines multi_gpu gpu_ids main_process_port
    dynamo_backend dynamo_mode dynamo_use_fullgraph dynamo_use_dynamic extra_accelerate_launch_args
    gradient_checkpointing fp8_base fp8_base_unet full_fp16 highvram lowvram xformers shuffle_caption
    save_state save_state_on_train_end resume prior_loss_weight color_aug flip_aug masked_loss clip_skip
    gradient_accumulation_steps mem_eff_attn max_token_length max_data_loader_n_workers keep_tokens
    persistent_data_loader_workers bucket_no_upscale random_crop bucket_reso_steps v_pred_like_loss
    caption_dropout_every_n_epochs caption_dropout_rate noise_offset_type noise_offset
    noise_offset_random_strength adaptive_noise_scale multires_noise_iterations multires_noise_discount
    ip_noise_gamma ip_noise_gamma_random_strength additional_parameters loss_type huber_schedule huber_c
    huber_scale vae_batch_size min_snr_gamma save_every_n_steps save_last_n_steps
    save_last_n_steps_state save_last_n_epochs save_last_n_epochs_state skip_cache_check log_with
    wandb_api_key wandb_run_name log_tracker_name log_tracker_config log_config
    scale_v_pred_loss_like_noise_pred full_bf16 min_timestep max_timestep vae weighted_captions
    debiased_estimation_loss sdxl_cache_text_encoder_outputs sdxl_no_half_vae text_encoder_lr t5xxl_lr
    unet_lr network_dim network_weights dim_from_weights network_alpha LoRA_type factor bypass_mode
    dora_wd use_cp use_tucker use_scalar rank_dropout_scale constrain rescaled train_norm decompose_both
    train_on_input conv_dim conv_alpha sample_every_n_steps sample_every_n_epochs sample_sampler
    sample_prompts down_lr_weight mid_lr_weight up_lr_weight block_lr_zero_threshold block_dims
    block_alphas conv_block_dims conv_block_alphas unit scale_weight_norms network_dropout rank_dropout
    module_dropout LyCORIS_preset loraplus_lr_ratio loraplus_text_encoder_lr_ratio
    loraplus_unet_lr_ratio train_lora_ggpo ggpo_sigma ggpo_beta huggingface_repo_id huggingface_token
    huggingface_repo_type huggingface_repo_visibility huggingface_path_in_repo save_state_to_huggingface
    resume_from_huggingface async_upload metadata_author metadata_description metadata_license
    metadata_tags metadata_title flux1_cache_text_encoder_outputs
    flux1_cache_text_encoder_outputs_to_disk model_type ae clip_l t5xxl discrete_flow_shift
    model_prediction_type timestep_sampling split_mode train_blocks t5xxl_max_token_length
    enable_all_linear guidance_scale mem_eff_save apply_t5_attn_mask split_qkv train_t5xxl
    cpu_offload_checkpointing blocks_to_swap single_blocks_to_swap double_blocks_to_swap show_timesteps
    show_timesteps_resolution img_attn_dim img_mlp_dim img_mod_dim single_dim txt_attn_dim txt_mlp_dim
    txt_mod_dim single_mod_dim in_dims train_double_block_indices train_single_block_indices
    sd3_cache_text_encoder_outputs sd3_cache_text_encoder_outputs_to_disk sd3_fused_backward_pass clip_g
    clip_g_dropout_rate sd3_clip_l sd3_clip_l_dropout_rate sd3_disable_mmap_load_safetensors
    sd3_enable_scaled_pos_embed logit_mean logit_std mode_scale pos_emb_random_crop_rate save_clip
    save_t5xxl sd3_t5_dropout_rate sd3_t5xxl t5xxl_device t5xxl_dtype sd3_text_encoder_batch_size
    weighting_scheme sd3_checkbox hunyuan_image_cache_text_encoder_outputs
    hunyuan_image_cache_text_encoder_outputs_to_disk hunyuan_text_encoder hunyuan_byt5 hunyuan_vae
    hunyuan_discrete_flow_shift hunyuan_model_prediction_type hunyuan_timestep_sampling
    hunyuan_sigmoid_scale hunyuan_attn_mode hunyuan_split_attn hunyuan_fp8_scaled hunyuan_fp8_vl
    hunyuan_text_encoder_cpu hunyuan_vae_chunk_size hunyuan_image_checkbox
    anima_cache_text_encoder_outputs anima_cache_text_encoder_outputs_to_disk anima_qwen3 anima_vae
    anima_llm_adapter_path anima_t5_tokenizer_path anima_discrete_flow_shift anima_timestep_sampling
    anima_sigmoid_scale anima_qwen3_max_token_length anima_t5_max_token_length anima_attn_mode
    anima_split_attn anima_vae_chunk_size anima_vae_disable_cache anima_unsloth_offload_checkpointing
    anima_qwen_image_vae_2d anima_compile anima_torch_compile anima_compile_backend anima_compile_mode
    anima_compile_dynamic anima_compile_fullgraph anima_compile_cache_size_limit anima_checkbox
    lumina_cache_text_encoder_outputs lumina_cache_text_encoder_outputs_to_disk lumina_gemma2 lumina_ae
    lumina_discrete_flow_shift lumina_model_prediction_type lumina_timestep_sampling
    lumina_sigmoid_scale lumina_gemma2_max_token_length lumina_system_prompt lumina_use_flash_attn
    lumina_use_sage_attn lumina_checkbox
"""
GUI = PARAMETERS.split()
BASE = {
    "LoRA_type": "Standard", "network_dim": 8, "max_resolution": "512,512", "unet_lr": 1e-4,
    "text_encoder_lr": 1e-4, "train_data_dir": "pictures",
}  # fmt: skip
KINDS = ("Standard", "Kohya LoCon", "Kohya DyLoRA", "LyCORIS/LoKr", "LyCORIS/Diag-OFT", "LyCORIS/iA3")
OTHERS = {  # where a key is read only beside another
    "multires_noise_iterations": {"noise_offset_type": "Multires"},
    "multires_noise_discount": {"noise_offset_type": "Multires"},
    "noise_offset_type": {"noise_offset": 0.1, "multires_noise_iterations": 6},
    "sdxl_cache_text_encoder_outputs": {"sdxl": True},
    "sdxl_no_half_vae": {"sdxl": True},
}


def page_of(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_the_tables_at_the_end_of_the_page_are_fresh():
    """Made by lora-train settings --compat."""
    assert PAGE.endswith(foreign())


@pytest.mark.parametrize("name", dict.fromkeys((*FLAGS, *VALUED, *DEFAULTS, *SDXL)))
def test_every_option_of_sd_scripts_is_taken_or_stands_on_the_page_with_its_reason(name):
    rule = FOREIGN.get(name)
    if isinstance(rule, Ignored):
        assert f"`{name}`" in page_of("Options without effect")
    elif isinstance(rule, Refused):
        assert f"`{name}`" in page_of("Options refused")
        assert "not in this version" not in rule.reason
    else:
        assert rule or name in KNOWN or name in (*FILES, *KEYS, FETCH, WRITE)


def come(found: dict) -> tuple:
    """What a configuration comes to: values, and all that is said of it."""
    heard = kohya.heard(found)
    words = {name: value for name, value in heard.words.items() if name not in FILES}
    try:
        said = translate(words, declared())
    except Mistake as e:
        return {}, [*heard.notes, *heard.refused, *str(e).splitlines()]
    files = {name: value for name, value in heard.words.items() if name in FILES}
    return {**said.values, **files}, [*heard.notes, *heard.refused, *said.notes]


def means_something(name: str) -> bool:
    values = (True, 3, "3", "x", 0.5, "--flip_aug", "Multires")
    for kind in KINDS:
        before = {**BASE, "LoRA_type": kind, **OTHERS.get(name, {})}
        then = come(before)
        if any(come({**before, name: value}) != then for value in values):
            return True
    return False


@pytest.mark.parametrize("name", GUI)
def test_every_key_of_kohya_ss_means_something_or_stands_on_the_page(name):
    table = page_of("Of kohya_ss' JSON, without effect")
    listed = f"`{name}`" in table or any(f"`{lead}…`" in table and name.startswith(lead)
                                         for lead in kohya.OF_OTHERS)  # fmt: skip
    if name.endswith("_checkbox") and name.removesuffix("_checkbox") in kohya.FAMILIES:
        assert f"`{name}`" in page_of("Of kohya_ss' JSON, refused")
    elif not listed:
        assert means_something(name), "silently lost"


def test_no_key_has_no_setting():
    """Of those that a person's file may have."""
    lost = [
        line
        for name in GUI
        for value in ("", "3")
        for line in come({**BASE, **OTHERS.get(name, {}), name: value})[1]
        if "no such setting" in line
    ]
    assert not lost


def test_a_rate_that_is_none_is_refused():
    assert (
        "text_encoder_lr = x: expected a rate, or two for SDXL's text encoders"
        in (come({**BASE, "text_encoder_lr": "x"})[1])
    )


def test_a_key_is_never_shown():
    assert not any("hf_secret" in line for line in come({**BASE, "huggingface_token": "hf_secret"})[1])
