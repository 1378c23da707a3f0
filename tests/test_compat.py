"""sd-scripts' flags and files mean here what they mean there, or are refused with the reason."""

import contextlib
import datetime
import importlib.util
import json
import pathlib

import pytest

from lora_train.adapters import FAMILIES
from lora_train.adapters.loha import Loha
from lora_train.adapters.lokr import Lokr
from lora_train.adapters.lora import Lora
from lora_train.cli import main
from lora_train.compat import FOREIGN, OF_DATASETS, Ignored, Refused, Translated, translate
from lora_train.errors import Mistake
from lora_train.job import assemble, declared
from lora_train.knobs import flat, kind_of
from lora_train.options import train_values
from lora_train.values import plain

REFERENCE = pathlib.Path(__file__).parents[2] / "shared" / "reference"
RUNS = sorted(
    file
    for file in REFERENCE.glob("*/run.json")
    if json.loads(file.read_text(encoding="utf-8"))["tool"] == "train_network.py"
)
TOML = pytest.mark.skipif(
    not any(map(importlib.util.find_spec, ("tomllib", "tomli"))),
    reason="reading TOML on Python 3.10 needs tomli, which the WebUI has not",
)
ONE = """
    --pretrained_model_name_or_path reference/tiny_sd1.safetensors --tokenizer_cache_dir <local>
    --train_data_dir reference/data --resolution 256 --enable_bucket --min_bucket_reso 128
    --max_bucket_reso 512 --bucket_reso_steps 64 --train_batch_size 1 --max_train_steps 10
    --learning_rate 1e-3 --unet_lr 1e-3 --text_encoder_lr 5e-4 --optimizer_type AdamW
    --lr_scheduler constant --seed 42 --mixed_precision no
    --save_precision float --caption_extension .txt --cache_latents --max_data_loader_n_workers 0
    --save_model_as safetensors --output_dir reference/lora_dim4 --output_name lora_dim4
    --network_module networks.lora --network_dim 4 --network_alpha 1 --sdpa --log_with tensorboard
    --logging_dir <local>
"""  # lora_dim4 of the reference runs
PLAIN = ONE.split()
CONVOLUTIONS = [*PLAIN, "--network_args", "conv_dim=2", "conv_alpha=1"]

# all options of sd-scripts' train_network.py at 48d368f
SWITCHES = """
    alpha_mask async_upload bucket_no_upscale cache_info cache_latents cache_latents_to_disk color_aug
    console_log_simple cpu_offload_checkpointing ddp_gradient_as_bucket_view ddp_static_graph
    debiased_estimation_loss debug_dataset deepspeed dim_from_weights enable_bucket enable_wildcard flip_aug
    fp16_master_weights_and_gradients fp8_base fp8_base_unet full_bf16 full_fp16 fused_backward_pass
    gradient_checkpointing highvram ip_noise_gamma_random_strength log_config lowram masked_loss mem_eff_attn
    network_train_text_encoder_only network_train_unet_only no_half_vae no_metadata
    noise_offset_random_strength output_config persistent_data_loader_workers random_crop
    resume_from_huggingface sample_at_first save_state save_state_on_train_end save_state_to_huggingface
    scale_v_pred_loss_like_noise_pred sdpa shuffle_caption skip_cache_check skip_until_initial_step
    torch_compile use_8bit_adam use_lion_optimizer v2 v_parameterization weighted_captions xformers
    zero3_init_flag zero3_save_16bit_model zero_terminal_snr
"""
OTHERS = """
    adaptive_noise_scale base_weights base_weights_multiplier caption_extention caption_prefix caption_suffix
    clip_skip conditioning_data_dir console_log_file console_log_level dataset_class ddp_timeout
    face_crop_aug_range huggingface_path_in_repo huggingface_repo_id huggingface_repo_type
    huggingface_repo_visibility huggingface_token in_json initial_epoch initial_step ip_noise_gamma
    keep_tokens_separator log_prefix log_tracker_config log_tracker_name log_with logging_dir
    lr_scheduler_args lr_scheduler_min_lr_ratio lr_scheduler_timescale lr_scheduler_type max_timestep
    max_token_length max_train_epochs max_validation_steps metadata_author metadata_description
    metadata_is_negative_embedding metadata_license metadata_merged_from metadata_preprocessor metadata_tags
    metadata_thumbnail metadata_title metadata_trigger_phrase metadata_usage_hint min_snr_gamma min_timestep
    multires_noise_iterations network_args network_dim network_dropout network_module network_weights
    noise_offset offload_optimizer_device offload_optimizer_nvme_path offload_param_device
    offload_param_nvme_path optimizer_args optimizer_type output_dir output_name
    pretrained_model_name_or_path reg_data_dir resize_interpolation resolution resume sample_every_n_epochs
    sample_every_n_steps sample_prompts save_every_n_epochs save_every_n_steps save_last_n_epochs
    save_last_n_epochs_state save_last_n_steps save_last_n_steps_state save_n_epoch_ratio save_precision
    scale_weight_norms secondary_separator seed text_encoder_lr tokenizer_cache_dir train_data_dir
    training_comment unet_lr v_pred_like_loss vae validate_every_n_epochs validate_every_n_steps
    validation_seed wandb_api_key wandb_run_name
"""
FLAGS, VALUED = SWITCHES.split(), OTHERS.split()
DEFAULTS = {  # of those that have one
    "save_model_as": "safetensors", "network_alpha": 1, "validation_split": 0.0, "learning_rate": 2e-06,
    "max_grad_norm": 1.0, "lr_scheduler": "constant", "lr_warmup_steps": 0, "lr_decay_steps": 0,
    "lr_scheduler_num_cycles": 1, "lr_scheduler_power": 1, "train_batch_size": 1,
    "dynamo_backend": "inductor", "max_train_steps": 1600, "max_data_loader_n_workers": 8,
    "gradient_accumulation_steps": 1, "mixed_precision": "no", "multires_noise_discount": 0.3,
    "loss_type": "l2", "huber_schedule": "snr", "huber_c": 0.1, "huber_scale": 1.0, "sample_sampler": "ddim",
    "prior_loss_weight": 1.0, "caption_separator": ",", "caption_extension": ".caption", "keep_tokens": 0,
    "vae_batch_size": 1, "min_bucket_reso": 256, "max_bucket_reso": 1024, "bucket_reso_steps": 64,
    "token_warmup_min": 1, "token_warmup_step": 0, "caption_dropout_rate": 0.0,
    "caption_dropout_every_n_epochs": 0, "caption_tag_dropout_rate": 0.0, "dataset_repeats": 1,
    "zero_stage": 2,
}  # fmt: skip


def asked(words):
    """The words of `train` as job, output, place; and what is said to have no effect."""
    values, notes = train_values(words, declared())
    return (*assemble(values), notes)


def refused(words) -> str:
    with pytest.raises(Mistake) as caught:
        asked(words)
    return str(caught.value)


def test_a_plain_run_of_sd_scripts_is_the_same_job_here():
    job, output, place, notes = asked(PLAIN)
    assert job.network == Lora(dim=4, alpha=1.0)
    assert (job.lr.learning_rate, job.lr.unet_lr, job.lr.text_encoder_lr) == (1e-3, 1e-3, 5e-4)
    assert (str(job.data.resolution), job.data.enable_bucket, job.data.min_bucket_reso) == ("256", True, 128)
    assert (job.training.max_train_steps, job.training.seed) == (10, 42)
    assert (job.data.caption_extension, job.data.batch_size) == ((".txt",), 1)
    assert (output.output_name, output.save_precision, output.log_with) == (
        "lora_dim4",
        "float",
        "tensorboard",
    )
    assert place.cache_latents
    assert [note.partition(" ")[0] for note in notes] == ["tokenizer_cache_dir", "sdpa"]


def test_network_args_and_the_last_of_two_equal_flags_count():
    job, *_ = asked([*CONVOLUTIONS, "--network_dim", "16", "--seed", "7"])
    assert job.network == Lora(dim=16, alpha=1.0, conv_dim=2, conv_alpha=1.0)
    assert job.training.seed == 7


@pytest.mark.skipif(not RUNS, reason="../shared/reference is not on this machine")
@pytest.mark.parametrize("file", RUNS, ids=lambda file: file.parent.name)
def test_the_reference_runs_are_read(file):
    words = json.loads(file.read_text(encoding="utf-8"))["arguments"]
    job, *_ = asked(words)
    last = len(words) - 1 - words[::-1].index("--network_dim")
    assert job.network.dim == int(words[last + 1])
    kind = next((word.partition("=")[2] for word in words if word.startswith("algo=")), "lora")
    assert type(job.network) is FAMILIES[kind]
    assert job.network.preset == ("full" if "lycoris.kohya" in words else None)


def test_lycoris_arguments():
    words = ["--network_module", "lycoris.kohya", "--network_args"]
    job, *_ = asked([*words, "algo=LoKr", "factor=8", "preset=attn-mlp", "use_cp=True", "dora_wd=False"])
    assert job.network == Lokr(factor=8, preset="attn-mlp", use_tucker=True)
    assert type(asked(words)[0].network) is Lora
    assert refused([*words, "algo=abc"]).startswith(
        "network_args algo=abc: not in this version; expected lora"
    )
    job, *_ = asked([*words, "algo=loha", "dora_wd=True", "wd_on_output=True", "train_norm=True"])
    assert job.network == Loha(preset="full", dora_wd=True, wd_on_output=True, train_norm=True)
    assert "preset" in refused([*words, "algo=loha", "preset=all"])


def test_every_option_of_sd_scripts_is_known():
    files = ["config_file", "dataset_config"]
    lost = [n for n in (*FLAGS, *VALUED, *DEFAULTS) if n not in KNOWN and n not in FOREIGN and n not in files]
    assert not lost


def test_a_job_at_sd_scripts_defaults_is_taken():
    said = translate(DEFAULTS, declared())
    assemble(said.values)
    for note in said.notes:
        assert " has no effect here: " in note


KNOWN = {alias: s.path for s in declared() if ".N." not in s.path for alias in s.aka}


@pytest.mark.parametrize("name", [name for name in FLAGS if not isinstance(FOREIGN.get(name), Refused)])
def test_a_flag_alone_is_on_or_has_no_effect(name):
    values, notes = train_values([f"--{name}"], declared())
    rule = FOREIGN.get(name)
    meant = {KNOWN[name]: True} if name in KNOWN else rule.into(True) if isinstance(rule, Translated) else {}
    assert values == meant
    assert len(notes) == (not meant)


@pytest.mark.parametrize("name", [name for name in FLAGS if isinstance(FOREIGN.get(name), Refused)])
def test_a_flag_that_cannot_be_is_refused_with_its_reason(name):
    assert refused([f"--{name}"]) == f"{name} = true: {FOREIGN[name].reason}"


def test_every_foreign_option_has_one_rule_and_is_no_setting_but_by_translation():
    for name, rule in FOREIGN.items():
        assert isinstance(rule, Ignored | Refused | Translated)
        assert isinstance(rule, Translated) or (rule.reason and name not in KNOWN)


@pytest.mark.parametrize("value", [False, "false", 0, "0", 0.0, "0.0", "", "none", None, []], ids=repr)
def test_what_is_refused_may_be_given_as_switched_off(value):
    refusals = [name for name, rule in FOREIGN.items() if isinstance(rule, Refused)]
    said = translate(dict.fromkeys(refusals, value), declared())
    assert (said.values, said.notes) == ({}, ())


def test_what_has_no_effect_says_so_once():
    idle = {name: rule.reason for name, rule in FOREIGN.items() if isinstance(rule, Ignored)}
    said = translate(dict.fromkeys(idle, True), declared())
    assert said.values == {}
    assert said.notes == tuple(f"{name} has no effect here: {reason}" for name, reason in idle.items())


@pytest.mark.parametrize(
    "value",
    [None, "", "x", "a=b", 10**400, -0.5, float("nan"), [], [1], [[]], {"a": 1}, datetime.date(2020, 1, 1)],
    ids=lambda value: repr(value)[:20],
)
def test_whatever_an_option_is_given_it_is_taken_or_refused(value):
    for name in (*FOREIGN, *KNOWN, "data", "data.datasets.0", "network.", ".", ""):
        with contextlib.suppress(Mistake):
            assemble(translate({name: value}, declared()).values)


def test_no_two_settings_share_a_flat_name():
    names = [name for s in declared() if ".N." not in s.path for name in s.aka]
    assert sorted(names) == sorted(set(names))


def test_no_flat_name_is_anothers_path():
    every = declared()
    assert not {s.path for s in every} & {name for s in every for name in s.aka}


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["--text_encoder_lr", "1e-4"], {"lr.text_encoder_lr": "1e-4"}),
        (["--text_encoder_lr", "1e-4", "1e-4"], {"lr.text_encoder_lr": "1e-4"}),
        (["--text_encoder_lr", "1e-4", "2e-4"],
         {"lr.text_encoder_lr": "1e-4", "lr.text_encoder_lr2": "2e-4"}),
        (["--lr.text_encoder_lr", "1e-4"], {"lr.text_encoder_lr": "1e-4"}),
        (["--optimizer_args", "weight_decay=0.1", "betas=(0.9, 0.99)"],
         {"optimizer.weight_decay": "0.1", "optimizer.betas": "0.9, 0.99"}),
        (["--network_args", "conv_dim=8", "rank_dropout='0.1'"],
         {"network.conv_dim": "8", "network.rank_dropout": "0.1"}),
        (["--network_args", "conv_dim=8 conv_alpha=4"],
         {"network.conv_dim": "8", "network.conv_alpha": "4"}),
        (["--network_args"], {}),
        (["--caption_extention", ".caption"], {"data.caption_extension": ".caption"}),
        (["--dataset_repeats", "3"], {"data.num_repeats": "3"}),
        (["--enable_bucket"], {"data.enable_bucket": True}),
        (["--enable_bucket", "false"], {"data.enable_bucket": "false"}),
        (["--betas", "0.9", "0.99"], {"optimizer.betas": ["0.9", "0.99"]}),
        (["--network.dim=8"], {"network.dim": "8"}),
        (["--loss_type", "l2", "--save_model_as", "safetensors"], {"objective.loss_type": "l2"}),
        (["--data.datasets.0.subsets.1.num_repeats", "2", "--data.datasets.0.subsets.0.flip_aug"],
         {"data.datasets.0.subsets.1.num_repeats": "2", "data.datasets.0.subsets.0.flip_aug": True}),
    ],
)  # fmt: skip
def test_words_come_to_values(words, values):
    assert train_values(words, declared())[0] == values


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--text_encoder_lr 1e-4 2e-4 3e-4",
         "text_encoder_lr = 1e-4, 2e-4, 3e-4: expected a rate, or two for SDXL's text encoders"),
        ("--network_args conv_dim", "conv_dim: expected name=value"),
        ("--network_module networks.lora_flux",
         "network_module = networks.lora_flux: not in this version; expected networks.lora, "),
        ("--loss_type l3", "objective.loss_type = l3: expected l2, l1, huber or smooth_l1"),
        ("--save_model_as ckpt", "save_model_as = ckpt: not in this version; expected safetensors"),
        ("--noise_offset_type pink", "noise_offset_type = pink: expected Original or Multires"),
        ("--blocks_to_swap 4", "blocks_to_swap = 4: blocks stay on the card; to save memory set "),
        ("--resume_from_huggingface", "resume_from_huggingface = true: expected resume = user/name/folder"),
        ("--output_config", "output_config = true: expected --config_file beside it, the file to write to"),
        ("--dataset_class a.B", "dataset_class = a.B: no program of one's own is run for pictures"),
        ("--adaptive_noise_scale 0.1", "objective.adaptive_noise_scale: is added to noise_offset"),
        ("--soft_min_snr", "objective.soft_min_snr: expected min_snr_gamma beside it"),
        ("--timestep_distribution beta", "objective.noising_weight = 0, noising_bias = 0: expected both"),
        ("--optimizer_type Nobodys", "optimizer.kind = Nobodys: expected adamw"),
        ("--optimizer_args decouple=True", "optimizer.decouple belongs to dadaptation"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_with_the_reason(words, text):
    assert refused(words.split()).splitlines()[0].startswith(text)


def test_all_refusals_are_told_at_once():
    lines = refused(["--blocks_to_swap", "2", "--deepspeed", "--network_dim", "4"]).splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["blocks_to_swap", "deepspeed"]
    lines = refused(["--network_dimm", "4", "--colour_aug"]).splitlines()
    assert lines == [
        "network_dimm: no such setting; did you mean network_dim?",
        "colour_aug: no such setting; did you mean color_aug?",
    ]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("--fp8_base", {"model.quantized_base": "fp8", "model.quantized_text_encoder": True}),
        ("--fp8_base_unet", {"model.quantized_base": "fp8"}),
        ("--dynamo_backend no", {}),
        ("--use_8bit_adam", {"optimizer.kind": "adamw8bit"}),
        ("--use_lion_optimizer", {"optimizer.kind": "lion"}),
        ("--optimizer_type AdamW8bit --optimizer_args weight_decay=0.1 betas=0.9,0.99",
         {"optimizer.kind": "adamw8bit", "optimizer.weight_decay": 0.1, "optimizer.betas": (0.9, 0.99)}),
        ("--optimizer_type came_pytorch.CAME", {"optimizer.kind": "came"}),
        ("--optimizer_type pytorch_optimizer.SOAP --optimizer_args precondition_frequency=5 eps=1e-9",
         {"optimizer.kind": "custom", "optimizer.optimizer_class": "pytorch_optimizer.SOAP",
          "optimizer.optimizer_args": ("precondition_frequency=5",), "optimizer.eps": 1e-9}),
        ("--optimizer_type Adafactor --optimizer_args scale_parameter=False relative_step=False "
         "warmup_init=False eps=(1e-30,1e-3) --lr_scheduler constant_with_warmup",
         {"optimizer.relative_step": False, "optimizer.optimizer_args": ("eps=1e-30,1e-3",)}),
        ("--lr_scheduler cosine_with_restarts --lr_scheduler_num_cycles 3",
         {"lr.lr_scheduler_num_cycles": 3}),
        ("--lr_scheduler cosine --lr_scheduler_num_cycles 3 --lr_scheduler_power 1", {"lr.kind": "cosine"}),
        ("--lr_scheduler warmup_stable_decay --lr_decay_steps 0.2 --lr_scheduler_min_lr_ratio 0.1",
         {"lr.lr_decay_steps": 0.2, "lr.lr_scheduler_min_lr_ratio": 0.1}),
        ("--lr_scheduler_type CosineAnnealingLR --lr_scheduler_args T_max=30",
         {"lr.lr_scheduler_type": "CosineAnnealingLR", "lr.lr_scheduler_args": ("T_max=30",)}),
        ("--lr_scheduler piecewise_constant --lr_scheduler_args step_rules=1:10,0.1",
         {"lr.lr_scheduler_args": ("step_rules=1:10", "0.1")}),
    ],
)  # fmt: skip
def test_sd_scripts_words_for_optimizers_and_schedules(words, wanted):
    job, _, _, notes = asked(words.split())
    found = flat(job)
    assert {path: found[path] for path in wanted} == {path: plain(value) for path, value in wanted.items()}
    assert not notes


def test_sd_scripts_words_for_memory():
    _, _, place, notes = asked(["--torch_compile", "--dynamo_backend", "eager"])
    assert (place.torch_compile, place.dynamo_backend, notes) == (True, "eager", [])
    _, _, place, _ = asked(["--gradient_checkpointing", "--cpu_offload_checkpointing"])
    assert place.cpu_offload_checkpointing


def test_the_seeds_own_words(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    assert asked(["--stop_text_encoder_training", "100"])[0].training.stop_text_encoder_training == 100
    assert asked(["--stop_text_encoder_training", "-1"])[0].network.train_unet_only
    assert asked(["--stop_text_encoder_training", "0"])[0].training.stop_text_encoder_training is None
    job, _, _, notes = asked(["--initial_epoch", "2", "--initial_step", "30", "--skip_until_initial_step"])
    assert (job.training.initial_epoch, job.training.initial_step) == (2, 30)
    assert [note.partition(" ")[0] for note in notes] == ["skip_until_initial_step"]
    job, _, _, notes = asked(
        ["--scale_lr", "--dataset_repeats=0", "--network_alpha=0", "--resolution", "600,900"]
    )
    assert (job.lr.scale_lr, job.data.num_repeats, str(job.data.resolution)) == (True, 1, "600,900")
    assert notes == ["dataset_repeats = 0 has no effect here: pictures are shown as their folders' names say"]
    job, *_ = asked(
        ["--network_module=locon.locon_kohya", "--network_args", "conv_dim=4", "use_reentrant=False"]
    )
    assert job.network == Lora(conv_dim=4)
    job, _, _, notes = asked(
        ["--full_bf16", "--pad_tokens", "--center_crop", "--class_batch_size", "2", "--lowram"]
    )
    assert job == assemble({})[0]
    assert len(notes) == 5


@TOML
def test_the_settings_are_written_to_a_file(tmp_path):
    file = tmp_path / "new.toml"
    words = [
        "--network_module", "lycoris.kohya", "--network_args", "algo=lokr", "factor=8", "--seed", "7",
        "--training_comment", '"\N{SNOWMAN}"', "--save_state_every_n_minutes", "", "--betas", "0.8", "0.9",
        "--data.datasets.0.batch_size", "3", "--data.datasets.0.subsets.0.image_dir", "C:\\x",
        "--data.datasets.0.subsets.1.flip_aug",
    ]  # fmt: skip
    assert main(["train", *words, "--config_file", str(file), "--output_config"]) == 0
    assert asked(["--config_file", str(file)])[:3] == asked(words)[:3]
    before = file.read_bytes()
    assert main(["train", "--config_file", str(file), "--output_config"]) == 2
    assert file.read_bytes() == before
    assert main(["train", "--config_file", str(tmp_path / "plain"), "--output_config"]) == 0
    assert asked(["--config_file", str(tmp_path / "plain.toml")])[:3] == assemble({})


DATASETS = """
[general]
shuffle_caption = true
keep_tokens = 1
caption_extension = ".caption"
batch_size = 2
cache_info = true
color_aug = false
token_warmup_min = 1

[[datasets]]
resolution = 512
keep_tokens = 2
enable_bucket = true

  [[datasets.subsets]]
  image_dir = "a"
  num_repeats = 3
  keep_tokens = 3

  [[datasets.subsets]]
  image_dir = "b"
  class_tokens = "dog"
  flip_aug = true
  shuffle_caption = false

[[datasets]]
resolution = [768, 512]
batch_size = 1

  [[datasets.subsets]]
  image_dir = "c"
"""


@pytest.fixture
def toml(tmp_path):
    """toml("name.toml", text): its path."""

    def write(name: str, text: str) -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


@TOML
def test_a_dataset_file_holds_from_the_inside_out(toml):
    words = ["--dataset_config", toml("d.toml", DATASETS)]
    job, *_ = asked([*words, "--num_repeats", "7", "--keep_tokens", "9", "--min_bucket_reso", "128"])
    first, second = job.data.datasets
    a, b, c = (*first.subsets, *second.subsets)
    assert [s.keep_tokens for s in (a, b, c)] == [3, 2, 1]  # subset, dataset, general
    assert [s.num_repeats for s in (a, b, c)] == [3, 7, 7]  # subset, command line
    assert [s.shuffle_caption for s in (a, b, c)] == [True, False, True]
    assert [s.caption_extension for s in (a, b, c)] == [(".caption",)] * 3
    assert [s.flip_aug for s in (a, b, c)] == [False, True, False]
    assert [(str(d.resolution), d.batch_size) for d in (first, second)] == [("512", 2), ("768,512", 1)]
    assert [d.enable_bucket for d in (first, second)] == [True, False]
    assert [d.min_bucket_reso for d in (first, second)] == [128, 128]  # command line
    assert [str(s.image_dir) for s in (a, b, c)] == ["a", "b", "c"]
    assert [s.class_tokens for s in (a, b, c)] == [None, "dog", None]


@TOML
@pytest.mark.parametrize("before", [True, False])
def test_a_dataset_file_holds_over_the_command_line_wherever_it_stands(toml, before):
    words, file = ["--train_batch_size", "8"], ["--dataset_config", toml("d.toml", DATASETS)]
    job, *_ = asked([*file, *words] if before else [*words, *file])
    assert [d.batch_size for d in job.data.datasets] == [2, 1]


SUBSET = "[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\n"


@TOML
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "{}: expected at least one [[datasets]] with a [[datasets.subsets]]"),
        ("datasets = 3", "{}: datasets: expected tables in double brackets, [[datasets]]"),
        ("[datasets]\nresolution = 5", "{}: datasets: expected tables in double brackets, [[datasets]]"),
        ("general = 3\n" + SUBSET, "{}: general = 3: expected a table, [general]"),
        ("[dataset]\n" + SUBSET, "{}: dataset: expected [general] and [[datasets]]"),
        (SUBSET + "num_repeat = 2", "data.datasets.0.subsets.0.num_repeat: no such setting; did you mean "
         "data.datasets.0.subsets.0.num_repeats?"),
        (SUBSET + "num_repeats = 0", "data.datasets.0.subsets.0.num_repeats = 0: expected 0.001 to 1000000"),
        (SUBSET + "network_dim = 8", "data.datasets.0.subsets.0.network_dim: no such setting"),
        (SUBSET + "sdpa = true", "data.datasets.0.subsets.0.sdpa: no such setting"),
        ("[general]\nvalidation_split = 2\n" + SUBSET, "data.validation_split = 2: expected 0 to 1"),
        ("[[datasets]]\nresolution = 'wide'\n", "data.datasets.0.resolution = wide: expected"),
        ("[[datasets]\n", "{}: not TOML: "),
    ],
)  # fmt: skip
def test_a_dataset_file_is_read_strictly(toml, text, complaint):
    file = toml("d.toml", text)
    assert any(
        line.startswith(complaint.format(file)) for line in refused(["--dataset_config", file]).splitlines()
    )


@TOML
def test_a_dataset_file_says_what_is_to_stay(toml):
    text = "[[datasets]]\n" + "".join(
        f"[[datasets.subsets]]\nimage_dir = '{name}'\ncustom_attributes = {value}\n"
        for name, value in {"a": "{diff_output_preservation = true}", "b": "{}"}.items()
    )
    job, *_ = asked(["--dataset_config", toml("d.toml", text)])
    assert [s.diff_output_preservation for s in job.data.datasets[0].subsets] == [True, False]
    wrong = toml("e.toml", SUBSET + "custom_attributes = {other = 1}")
    assert refused(["--dataset_config", wrong]) == (
        f"{wrong}: custom_attributes.other: no such attribute; expected diff_output_preservation"
    )


@TOML
def test_entries_of_a_dataset_file_that_change_nothing_are_taken(toml):
    usual = {"caption_separator": "','", "token_warmup_min": "1", "network_multiplier": "1.0"}
    lines = [f"{name} = {usual.get(name, 'false')}" for name in OF_DATASETS]
    job, *_ = asked(["--dataset_config", toml("d.toml", SUBSET + "\n".join(lines))])
    assert len(job.data.datasets) == 1


FLAT = """
pretrained_model_name_or_path = "model.safetensors"
train_data_dir = "pictures"
resolution = "512,768"
network_module = "networks.lora"
network_dim = 16
network_args = ["conv_dim=4", "conv_alpha=1"]
optimizer_args = ["weight_decay=0.1", "betas=0.9,0.99"]
text_encoder_lr = [5e-5, 5e-5]
learning_rate = 1
enable_bucket = true
xformers = true
max_train_epochs = 2
"""


@TOML
@pytest.mark.parametrize("sections", [False, True])
def test_a_config_file_is_read_with_and_without_headings(toml, sections):
    lines = FLAT.strip().splitlines()
    text = "\n".join(f"[part{i}]\n{line}" for i, line in enumerate(lines)) if sections else FLAT
    job, _, _, notes = asked(["--config_file", toml("c.toml", text)])
    assert (job.network.dim, job.network.conv_dim, job.network.conv_alpha) == (16, 4, 1.0)
    assert (job.optimizer.weight_decay, job.optimizer.betas) == (0.1, (0.9, 0.99))
    assert (job.lr.learning_rate, job.lr.text_encoder_lr) == (1.0, 5e-5)
    assert (str(job.data.resolution), job.data.enable_bucket) == ("512,768", True)
    assert [note.partition(" ")[0] for note in notes] == ["xformers"]


@TOML
def test_the_command_line_holds_over_the_config_file(toml):
    file = toml("c.toml", FLAT)
    job, *_ = asked(["--network.dim", "3", "--config_file", file, "--text_encoder_lr", "1e-3"])
    assert (job.network.dim, job.lr.text_encoder_lr, job.training.max_train_epochs) == (3, 1e-3, 2)


@TOML
def test_a_config_file_goes_by_its_name_without_the_ending(toml):
    job, *_ = asked(["--config_file", toml("c.toml", FLAT).removesuffix(".toml")])
    assert job.network.dim == 16


@TOML
def test_a_config_file_may_spell_paths(toml):
    text = """
        "objective.min_snr_gamma" = 5
        [network]
        dim = 7
        network_alpha = 2
        [[data.datasets]]
        batch_size = 3
        [[data.datasets.subsets]]
        num_repeats = 5
        [[data.datasets.subsets]]
        image_dir = "b"
    """
    job, *_ = asked(["--config_file", toml("c.toml", text)])
    assert (job.objective.min_snr_gamma, job.network.dim, job.network.alpha) == (5.0, 7, 2.0)
    assert [s.num_repeats for s in job.data.datasets[0].subsets] == [5, 1]


@TOML
def test_empty_names_of_files_in_a_config_file_are_none(toml):
    text = FLAT + "dataset_config = ''\nresume = ''\nvae = ''\nnetwork_weights = ''"
    job, _, place, _ = asked(["--config_file", toml("c.toml", text)])
    assert (job.data.datasets, job.model.vae, job.network.weights, place.resume) == ((), None, None, None)


@TOML
def test_a_config_file_may_name_the_dataset_file(toml):
    text = f"dataset_config = '{toml('d.toml', DATASETS)}'\ntrain_batch_size = 8"
    job, *_ = asked(["--config_file", toml("c.toml", text)])
    assert [d.batch_size for d in job.data.datasets] == [2, 1]


@TOML
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("network_dimm = 4", "{}: network_dimm: no such setting; did you mean network_dim?"),
        ("[network]\ndimm = 4", "{}: dimm: no such setting"),
        ("[[data.datasets]]\nbatch = 4", "{}: data.datasets.0.batch: no such setting; did you mean "
         "data.datasets.0.batch_size?"),
        (SUBSET, "{}: describes datasets; give it as --dataset_config"),
        ("deepspeed = true", "{}: deepspeed = true: many cards each hold the whole model here"),
        ("network_dim = 'four'", "network.dim = four: expected a whole number"),
        ("network_dim = ", "{}: not TOML: "),
        ("network_dim = " + "9" * 5000, "{}: not TOML: "),
        ("dim = 4", "{}: dim: no such setting; did you mean network.dim?"),
    ],
)  # fmt: skip
def test_a_config_file_is_read_strictly(toml, text, complaint):
    file = toml("c.toml", text)
    assert refused(["--config_file", file]).startswith(complaint.format(file))


@TOML
def test_a_toml_file_in_another_encoding_is_named(tmp_path):
    file = tmp_path / "c.toml"
    file.write_bytes("output_name = 'müller'".encode("latin-1"))
    assert refused(["--config_file", str(file)]) == f"{file}: expected UTF-8 text; save it as UTF-8"


@TOML
def test_no_such_toml_file_is_named(tmp_path):
    file = tmp_path / "c.toml"
    assert refused(["--config_file", str(file)]).startswith(f"{file}: expected a TOML file (No such file")


def test_every_setting_of_a_job_can_be_said_on_the_command_line():
    """By its path with its own default written down: the job stays the default one."""
    words, usual = [], {kind_of(FAMILIES, assemble({})[0].network), "constant", "denoise", "adamw"}
    for s in (s for s in declared() if ".N." not in s.path and s.default not in (None, ())):
        if s.kinds and not usual & set(s.kinds):
            continue
        value = s.default if isinstance(s.default, tuple) else (s.default,)
        words += [f"--{s.path}", *map(str, value)]
    assert asked(words)[:3] == assemble({})
    assert len(words) > 100


GUI = """
bucket_no_upscale = true
bucket_reso_steps = 64
cache_latents = true
caption_extension = ".txt"
clip_skip = 1
dynamo_backend = "no"
enable_bucket = true
epoch = 10
gradient_accumulation_steps = 1
huber_c = 0.1
huber_scale = 1
huber_schedule = "snr"
learning_rate = 0.0001
loss_type = "l2"
lr_scheduler = "cosine"
lr_scheduler_args = []
lr_scheduler_num_cycles = 10
lr_scheduler_power = 1
lr_warmup_steps = 100
max_bucket_reso = 2048
max_data_loader_n_workers = 0
max_grad_norm = 1
max_timestep = 1000
max_token_length = 75
max_train_steps = 1600
min_bucket_reso = 256
mixed_precision = "bf16"
network_alpha = 1
network_args = []
network_dim = 8
network_module = "networks.lora"
noise_offset_type = "Original"
optimizer_args = []
optimizer_type = "AdamW"
output_dir = "out"
output_name = "last"
pretrained_model_name_or_path = "model.safetensors"
prior_loss_weight = 1
resolution = "512,512"
sample_prompts = "out/sample/prompt.txt"
sample_sampler = "euler_a"
save_every_n_epochs = 1
save_model_as = "safetensors"
save_precision = "fp16"
text_encoder_lr = [ 0.0001, 0.0001,]
train_batch_size = 1
train_data_dir = "img"
unet_lr = 0.0001
wandb_run_name = "last"
xformers = true
"""


@TOML
def test_the_file_that_kohya_ss_writes_is_taken_and_a_few_lines_say_what_of_it_has_no_effect(toml):
    job, _, _, notes = asked(["--config_file", toml("config_lora.toml", GUI)])
    assert (job.network.dim, job.lr.text_encoder_lr, str(job.data.resolution)) == (8, 1e-4, "512")
    names = [note.partition(" ")[0] for note in notes]
    assert names == ["epoch", "xformers"]


@TOML
@pytest.mark.parametrize("option", ["--config_file", "--dataset_config"])
@pytest.mark.parametrize("folder", [r"C:\pictures", r"C:\users", r"C:\train"])
def test_a_path_whose_backslash_is_an_escape_is_told(toml, option, folder):
    text = (
        f'train_data_dir = "{folder}"' if option == "--config_file" else f'{SUBSET}class_tokens = "{folder}"'
    )
    assert "write C:/folder or 'C:\\folder'" in refused([option, toml("c.toml", text)])


@TOML
@pytest.mark.parametrize(
    ("text", "missing"), [("", "0.subsets.0"), ("[[datasets.subsets]]\n" * 2, "0.subsets.1")]
)
def test_a_dataset_or_a_subset_that_says_nothing_is_missed_and_not_forgotten(toml, text, missing):
    from lora_train.data.plan import plan

    job, *_ = asked(["--dataset_config", toml("d.toml", f"[[datasets]]\n{text}")])
    with pytest.raises(Mistake, match=f"data.datasets.{missing}.image_dir: expected the folder"):
        plan(job.data)


@TOML
@pytest.mark.parametrize("name", ["min_snr_gamma", "scale_weight_norms"])
def test_a_zero_leaves_unset_as_in_sd_scripts_and_holds_over_a_file(toml, name):
    file = toml("c.toml", f"{name} = 5")
    for zero in ("0", "0.0", "none"):
        job, *_ = asked(["--config_file", file, f"--{name}", zero])
        assert job.objective.min_snr_gamma is job.network.scale_weight_norms is None
