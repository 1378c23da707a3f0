"""Settings that have no effect as the others stand, each with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from lora_train.adapters.family import Ranked
from lora_train.data.folder import Data
from lora_train.job import Job, Output, Place
from lora_train.knobs import kind_of, settings
from lora_train.objectives.timed import BIASED, WEIGHED
from lora_train.train.lr import SCHEDULERS
from lora_train.train.rates import Constant
from lora_train.train.validation import Validation

Rule = tuple[tuple[str, ...], Callable[[Job, Output, Place], bool], str]


def _warms(job: Job) -> bool:
    return type(job.lr).__name__ != "Constant"


def _course(job: Job, *kinds: str) -> bool:
    """Whether the schedule is one of these."""
    return job.lr.lr_scheduler_type is None and kind_of(SCHEDULERS, job.lr) in kinds


def _of(job: Job, name: str) -> object:
    """What an objective has under a name, where it has it."""
    return vars(job.objective).get(name)


def _picks(job: Job) -> bool:
    """Whether tags are shuffled or left out, so that some may be kept in place."""
    d = job.data
    return bool(d.shuffle_caption or d.caption_tag_dropout_rate or d.token_warmup_step)


def _ranked(job: Job) -> bool:
    """Whether its adapters have ranks, in convolutions too."""
    return isinstance(job.network, Ranked)


def _samples(output: Output) -> bool:
    o = output
    return bool(o.sample_every_n_steps or o.sample_every_n_epochs or o.sample_at_first)


UNET_ONLY = "only the UNet trains, as network.train_unet_only says"
PRESET_TEXT = "network.preset leaves the text encoders out"
TEXT_ONLY = "only the text encoder trains, as network.train_text_encoder_only says"
FROM_FILE = "taken from the file, as network.dim_from_weights says"
NO_BUCKETS = "all pictures are cut to the resolution, for data.enable_bucket is off"
NO_SAMPLES = "no samples are drawn; set output.sample_every_n_steps"
NO_STATE = "no states are saved; set output.save_state"
NO_TRACKER = "no tracker is chosen in output.log_with"
ONE_TEXT = ("sd1", "sd2")
LAST_BUT_ONE = {"sd2": "SD 2.x", "sdxl": "SDXL"}
IN_PLACE = "tags stay where they are; set data.shuffle_caption"

PICTURES = (
    *(f"data.{s.path}" for s in settings(Data)
      if ".N." not in s.path and s.name not in ("resolution", "batch_size", "train_data_dir", "reg_data_dir",
                                                "in_json")),
    "place.cache_latents", "place.cache_latents_to_disk", "place.vae_batch_size",
)  # fmt: skip

RULES: tuple[Rule, ...] = (
    (("lr.text_encoder_lr",), lambda j, o, p: j.network.train_unet_only, UNET_ONLY),
    (("lr.text_encoder_lr", "lr.text_encoder_lr2"), lambda j, o, p: not j.network.trains("te1"), PRESET_TEXT),
    (("network.conv_dim", "network.conv_alpha"),
     lambda j, o, p: _ranked(j) and j.network.preset is not None and not j.network.wide_dim,
     "network.preset leaves 3x3 convolutions out"),
    (("lr.unet_lr",), lambda j, o, p: j.network.train_text_encoder_only, TEXT_ONLY),
    (("lr.lr_warmup_steps",), lambda j, o, p: not _warms(j), "lr.kind = constant has no warm-up"),
    (tuple(f"lr.{s.path}" for s in settings(Constant)), lambda j, o, p: j.optimizer.chooses,
     "Adafactor chooses the rate, as optimizer.relative_step says"),
    (("lr.lr_scheduler_num_cycles",),
     lambda j, o, p: not _course(j, "cosine_with_restarts", "cosine_with_min_lr", "warmup_stable_decay"),
     "is of cosine_with_restarts, cosine_with_min_lr and warmup_stable_decay"),
    (("lr.lr_scheduler_min_lr_ratio",),
     lambda j, o, p: not _course(j, "cosine_with_min_lr", "warmup_stable_decay"),
     "is of cosine_with_min_lr and warmup_stable_decay"),
    (("lr.lr_scheduler_power",), lambda j, o, p: not _course(j, "polynomial"), "is of polynomial"),
    (("lr.lr_scheduler_timescale",), lambda j, o, p: not _course(j, "inverse_sqrt"), "is of inverse_sqrt"),
    (("lr.lr_decay_steps",), lambda j, o, p: not _course(j, "warmup_stable_decay"),
     "is of warmup_stable_decay"),
    (("training.max_train_steps",), lambda j, o, p: j.training.max_train_epochs is not None,
     "training.max_train_epochs says how long"),
    (("network.dim_from_weights",), lambda j, o, p: j.network.weights is None,
     "there is no file to go on from in network.weights"),
    (("network.dim", "network.alpha", "network.conv_dim", "network.conv_alpha", "network.block_dims",
      "network.block_alphas", "network.conv_block_dims", "network.conv_block_alphas"),
     lambda j, o, p: j.network.dim_from_weights and j.network.weights is not None, FROM_FILE),
    (("network.conv_alpha",),
     lambda j, o, p: _ranked(j) and not (j.network.conv_dim or j.network.conv_block_dims),
     "convolutions are not trained; set network.conv_dim"),
    (("data.min_bucket_reso", "data.max_bucket_reso", "data.bucket_reso_steps", "data.bucket_no_upscale"),
     lambda j, o, p: not j.data.enable_bucket, NO_BUCKETS),
    (("data.min_bucket_reso", "data.max_bucket_reso"),
     lambda j, o, p: j.data.enable_bucket and j.data.bucket_no_upscale,
     "buckets follow the pictures' own sizes, as data.bucket_no_upscale says"),
    (("data.num_repeats",), lambda j, o, p: j.data.samples_per_epoch is not None,
     "data.samples_per_epoch says how often"),
    (("data.keep_tokens", "data.keep_tokens_separator", "data.secondary_separator"),
     lambda j, o, p: not _picks(j), IN_PLACE),
    (("data.token_warmup_min",), lambda j, o, p: not j.data.token_warmup_step,
     "there is no warm-up of tags; set data.token_warmup_step"),
    (("data.prior_loss_weight", "data.prior_loss_scale"),
     lambda j, o, p: not (j.data.reg_data_dir or j.data.datasets or j.data.makes_class),
     "there are no regularisation pictures; set data.reg_data_dir"),
    (("data.prior_loss_target", "data.prior_loss_weight_min"), lambda j, o, p: not j.data.prior_loss_scale,
     "the weight stays what it is; set data.prior_loss_scale"),
    (("objective.huber_c", "objective.huber_schedule", "objective.huber_scale"),
     lambda j, o, p: _of(j, "loss_type") in ("l2", "l1"),
     "objective.loss_type is neither huber nor smooth_l1"),
    (("objective.huber_scale",), lambda j, o, p: _of(j, "huber_schedule") == "snr",
     "objective.huber_schedule = snr takes huber_c alone"),
    (("objective.noise_offset_random_strength",), lambda j, o, p: not _of(j, "noise_offset"),
     "there is none; set objective.noise_offset"),
    (("objective.multires_noise_discount",), lambda j, o, p: not _of(j, "multires_noise_iterations"),
     "there is none; set objective.multires_noise_iterations"),
    (("objective.ip_noise_gamma_random_strength",), lambda j, o, p: not _of(j, "ip_noise_gamma"),
     "there is none; set objective.ip_noise_gamma"),
    (("objective.noising_weight",), lambda j, o, p: _of(j, "timestep_distribution") not in WEIGHED,
     "objective.timestep_distribution has no such number"),
    (("objective.noising_bias",), lambda j, o, p: _of(j, "timestep_distribution") not in BIASED,
     "objective.timestep_distribution has no such number"),
    (("objective.edm2_loss_weighting_optimizer_lr", "objective.edm2_loss_weighting_num_channels"),
     lambda j, o, p: not _of(j, "edm2_loss_weighting"), "there is none; set objective.edm2_loss_weighting"),
    (("objective.diff_output_preservation_multiplier",),
     lambda j, o, p: not j.data.datasets and not j.data.diff_output_preservation_class,
     "there is none; set data.diff_output_preservation_class"),
    (("objective.unmasked_weight", "objective.unmasked_probability", "objective.normalize_masked_area_loss",
      "objective.masked_prior_preservation_weight"),
     lambda j, o, p: not (j.data.alpha_mask or j.data.datasets or _of(j, "masked_loss")),
     "there are no masks; set data.alpha_mask, or objective.masked_loss"),
    (("data.transparent_color",), lambda j, o, p: j.data.alpha_mask,
     "the colours under it are shown, for data.alpha_mask means something else by it"),
    (("data.validation_seed", *(f"validation.{s.path}" for s in settings(Validation))),
     lambda j, o, p: not (j.data.validation_split or j.data.datasets),
     "no pictures are held out; set data.validation_split"),
    (("validation.early_stopping_threshold",),
     lambda j, o, p: j.validation.early_stopping_patience is None,
     "the run goes on to its end; set validation.early_stopping_patience"),
    (("output.save_every_n_steps",), lambda j, o, p: bool(o.save_every_n_epochs or o.save_n_epoch_ratio),
     "files are saved by epoch"),
    (("output.save_every_n_epochs",), lambda j, o, p: o.save_n_epoch_ratio is not None,
     "output.save_n_epoch_ratio says how many files"),
    (("output.save_last_n_epochs_state", "output.save_last_n_steps_state"),
     lambda j, o, p: not o.save_state, NO_STATE),
    (("output.sample_every_n_steps",), lambda j, o, p: o.sample_every_n_epochs is not None,
     "samples are drawn by epoch, as output.sample_every_n_epochs says"),
    (("output.sample_prompts", "output.sample_sampler", "output.sample_base"),
     lambda j, o, p: not _samples(o), NO_SAMPLES),
    (("place.cache_text_encoder_outputs", "place.cache_text_encoder_outputs_to_disk"),
     lambda j, o, p: j.network.trains("te1"),
     "the text encoder trains, so what it makes of captions changes; set network.train_unet_only"),
    (("output.logging_dir", "output.log_prefix", "output.log_tracker_name", "output.log_tracker_config",
      "output.log_config"), lambda j, o, p: not o.log_with, NO_TRACKER),
    (("output.wandb_run_name",), lambda j, o, p: "wandb" not in o.trackers, "output.log_with is not wandb"),
    (PICTURES, lambda j, o, p: not j.objective.pictures, "what is learned are prompts, not pictures"),
    (("embedding.num_vectors_per_token", "embedding.init_word", "embedding.embedding_learning_rate",
      "embedding.train_text_encoder_ti_frac", "embedding.preserve_embedding_norm", "output.save_embedding"),
     lambda j, o, p: j.embedding.token_string is None, "no word is learned; set embedding.token_string"),
    (("place.cache_text_encoder_outputs", "place.cache_text_encoder_outputs_to_disk"),
     lambda j, o, p: j.embedding.token_string is not None,
     "a word is learned, so what the text encoder makes of captions changes"),
    (("data.class_token", "data.file_prompt_contents"), lambda j, o, p: j.data.instance_token is None,
     "captions get no tokens; set data.instance_token"),
    (("data.class_data_dir", "data.class_negative_prompt", "data.class_guidance_scale",
      "data.class_infer_steps", "data.class_seed", "data.class_sampler"),
     lambda j, o, p: not j.data.datasets and not j.data.makes_class,
     "no pictures of the class are drawn; set data.num_class_images"),
    (("output.export_rank",), lambda j, o, p: not (j.network.own_form or j.relora.steps),
     "the WebUI reads adapters of this kind as they are"),
    (("relora.warmup_steps", "relora.prune_ratio"), lambda j, o, p: j.relora.steps is None,
     "no fresh adapters start; set relora.steps"),
    (("place.vae_batch_size",), lambda j, o, p: not p.caches(j.data),
     "latents are made anew for each batch; set place.cache_latents"),
)  # fmt: skip


def loaded(job: Job, header: Mapping[str, object]) -> bool:
    """Whether the job is for the model that the host's header describes."""
    path = job.model.pretrained_model_name_or_path
    return bool(header.get("loaded")) and (path is None or str(path) == str(header.get("path")))


def disabled(job: Job, output: Output, place: Place, header: Mapping[str, object]) -> dict[str, str]:
    """{path: why it has no effect}; of several reasons the first."""
    found: dict[str, str] = {}
    for path, why in _held(job, output, place, header):
        found.setdefault(path, why)
    return found


def _held(job: Job, output: Output, place: Place, header: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for paths, holds, why in RULES:
        if holds(job, output, place):
            yield from ((path, why) for path in paths)
    if loaded(job, header) and (said := LAST_BUT_ONE.get(str(header.get("family")))):
        yield "model.clip_skip", f"{said} was made with the last but one layer, and always takes it"
    if loaded(job, header) and header.get("family") in ONE_TEXT:
        yield "lr.text_encoder_lr2", "the model has one text encoder"
