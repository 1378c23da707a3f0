"""What all of the WebUI shares. Asking for `sd_model` loads it, where none was ever loaded."""

import sys
import types

from modules import devices, options, shared_state

cmd_opts = types.SimpleNamespace(
    no_half=True, no_half_vae=False, medvram=False, medvram_sdxl=False, lowvram=False,
    upcast_sampling=False, precision="full", use_cpu=["all"], disable_nan_check=True, xformers=False,
    force_enable_xformers=False, opt_sdp_attention=False, opt_sdp_no_mem_attention=False,
    opt_sub_quad_attention=False, opt_channelslast=False, ckpt_dir=None, vae_dir=None, lora_dir=None,
    embeddings_dir="", data_path="", listen=False, share=False, ngrok=None, api=True, api_auth=None,
    gradio_auth=None, gradio_auth_path=None, nowebui=False, subpath=None, device_id=None,
    webui_is_non_local=False, gradio_allowed_path=None, no_hashing=False, no_prompt_history=True,
    server_name=None,
)  # fmt: skip
DEFAULTS = {
    "sd_model_checkpoint": None, "sd_checkpoint_hash": "", "sd_vae": "Automatic", "sd_unet": "Automatic",
    "sd_checkpoints_limit": 1, "sd_checkpoints_keep_in_cpu": True, "sd_checkpoint_cache": 0,
    "CLIP_stop_at_last_layers": 1, "sdxl_clip_l_skip": False, "emphasis": "Original",
    "use_old_emphasis_implementation": False, "comma_padding_backtrack": 20, "upcast_attn": False,
    "cross_attention_optimization": "Automatic", "tiling": False, "fp8_storage": "Disable",
    "cache_fp16_weight": False, "token_merging_ratio": 0.0, "sd_noise_schedule": "Default",
    "use_downcasted_alpha_bar": False, "lora_functional": False, "lora_add_hashes_to_infotext": True,
    "lora_preferred_name": "Alias from file", "live_previews_enable": True,
    "show_progress_type": "Approx NN", "show_progress_every_n_steps": 10, "enable_pnginfo": True,
    "samples_format": "png", "localization": "None", "hypertile_enable_unet": False, "sdxl_crop_top": 0,
    "sdxl_crop_left": 0, "sd_hypernetwork": "None", "sd_lora": "None", "persistent_cond_cache": True,
    "batch_cond_uncond": True, "pad_cond_uncond": False, "randn_source": "CPU",
    "sd_vae_decode_method": "Full", "sd_vae_encode_method": "Full", "eta_noise_seed_delta": 0,
    "face_restoration": False, "auto_vae_precision": True, "interrogate_keep_models_in_memory": False,
}  # fmt: skip

opts = options.Options(DEFAULTS)
OptionInfo = options.OptionInfo
state = shared_state.State()
device, parallel_processing_allowed = devices.device, True
loaded_hypernetworks, hypernetworks, sd_upscalers = [], {}, []
demo = None


class Shared(types.ModuleType):
    @property
    def sd_model(self):
        from modules import sd_models

        return sd_models.model_data.get_sd_model()

    @sd_model.setter
    def sd_model(self, value):
        from modules import sd_models

        sd_models.model_data.set_sd_model(value)


sys.modules[__name__].__class__ = Shared
