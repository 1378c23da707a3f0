"""The command line: what words come to, and how it ends."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
import types

import pytest

from lora_train.cli import COMMANDS, main
from lora_train.errors import Mistake
from lora_train.job import assemble, declared

TOML = pytest.mark.skipif(
    not any(map(importlib.util.find_spec, ("tomllib", "tomli"))),
    reason="reading TOML on Python 3.10 needs tomli",
)
TRAIN = ("train", "--pretrained_model_name_or_path", "model.safetensors", "--train_data_dir", "pictures")


@pytest.fixture
def asked(monkeypatch):
    """What a run would be made of; nothing is run."""
    found = []

    def run(job, output, place, host, *, watchers=(), control=None):
        found.append((job, output, place))
        progress = types.SimpleNamespace(stopped=False, step=1)
        return types.SimpleNamespace(progress=progress, file=output.output_dir, state=None)

    monkeypatch.setattr("lora_train.run.session.run", run)
    return found


@pytest.fixture
def told(capsys, caplog):
    """The lines that a person sees on stderr."""

    def tell(*words: str, status: int = 2) -> list[str]:
        caplog.clear()
        assert main(list(words)) == status
        assert not any(record.exc_info for record in caplog.records)
        return [record.getMessage() for record in caplog.records] + capsys.readouterr().err.splitlines()

    return tell


@pytest.mark.parametrize("name", ["--network_dim", "--network.dim"])
@pytest.mark.parametrize("form", [["8"], None])
def test_a_setting_goes_by_its_flat_name_and_by_its_path(asked, name, form):
    words = [name, *form] if form else [f"{name}=8"]
    assert main([*TRAIN, *words]) == 0
    assert asked[0][0].network.dim == 8


@pytest.mark.parametrize("setting", [s for s in declared() if ".N." not in s.path], ids=lambda s: s.path)
def test_every_setting_can_be_reached(asked, capsys, setting):
    for name in (*setting.aka, setting.path):
        main([*TRAIN, f"--{name}", "no such value ?"])
        assert "no such setting" not in capsys.readouterr().err


def test_a_switch_is_on_by_its_name_and_off_by_a_word(asked):
    assert main([*TRAIN, "--enable_bucket", "--cache_latents", "false"]) == 0
    job, _, place = asked[0]
    assert job.data.enable_bucket
    assert not place.cache_latents


def test_items_are_reached_by_their_paths(asked):
    words = ["--data.datasets.0.subsets.0.image_dir", "a", "--data.datasets.0.resolution", "256"]
    assert main([*TRAIN[:3], *words]) == 0
    dataset = asked[0][0].data.datasets[0]
    assert str(dataset.resolution) == "256"
    assert dataset.subsets[0].image_dir.name == "a"


def test_a_later_flag_counts(asked):
    assert main([*TRAIN, "--network_dim", "4", "--network.dim", "16", "--network_dim", "8"]) == 0
    assert asked[0][0].network.dim == 8


def test_lists_come_as_words_or_as_one(asked):
    for words in (["0.9", "0.99"], ["0.9,0.99"]):
        assert main([*TRAIN, "--betas", *words]) == 0
    weights = ["--network.block_weights", ",".join("1" * 12)]
    assert main([*TRAIN, *weights, "--text_encoder_lr", "5e-4", "5e-4"]) == 0
    assert asked[0][0].optimizer.betas == asked[1][0].optimizer.betas == (0.9, 0.99)
    assert asked[2][0].lr.text_encoder_lr == 5e-4


@TOML
def test_the_command_line_goes_before_a_file_of_settings(asked, tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("network_dim = 8\nnetwork_alpha = 2\n[training]\nseed = 5\n", encoding="utf-8")
    for name in (path, path.with_suffix("")):
        assert main([*TRAIN, "--config_file", str(name), "--network_alpha", "4"]) == 0
    for job, _, _ in asked:
        assert (job.network.dim, job.network.alpha, job.training.seed) == (8, 4.0, 5)


@pytest.fixture
def saved(tmp_path):
    """A file with a job inside."""
    import torch
    from safetensors.torch import save_file

    def save(values: object, name: str = "a.safetensors"):
        text = values if isinstance(values, str) else json.dumps(values)
        path = tmp_path / name
        key = "lora_unet_input_blocks_1_1_proj_in"
        tensors = {f"{key}.lora_down.weight": torch.zeros(1, 2), f"{key}.lora_up.weight": torch.zeros(2, 1),
                   f"{key}.alpha": torch.tensor(1.0)}  # fmt: skip
        save_file(tensors, path, {"lora_train_job": text})
        return path

    return save


@TOML
def test_a_saved_job_is_repeated_and_flags_and_files_go_before_it(asked, saved, tmp_path):
    path = saved({"network.dim": 8, "network.alpha": 2.0, "training.seed": 7})
    config = tmp_path / "c.toml"
    config.write_text("network_alpha = 3", encoding="utf-8")
    words = ["--from", str(path), "--seed", "9", "--config_file", str(config)]
    assert main([*TRAIN, *words]) == 0
    job = asked[0][0]
    assert (job.network.dim, job.network.alpha, job.training.seed) == (8, 3.0, 9)


@TOML
def test_other_pictures_take_the_place_of_those_of_a_saved_job(asked, saved, tmp_path):
    path = saved(
        {"data.datasets.0.batch_size": 3, "data.datasets.1.subsets.0.num_repeats": 2, "network.dim": 8}
    )
    config = tmp_path / "d.toml"
    config.write_text("[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\n", encoding="utf-8")
    assert main([*TRAIN, "--from", str(path)]) == 0
    assert main([*TRAIN[:3], "--from", str(path), "--dataset_config", str(config)]) == 0
    assert asked[0][0].data.datasets == ()
    assert [d.batch_size for d in asked[1][0].data.datasets] == [1]
    assert [job.network.dim for job, _, _ in asked] == [8, 8]


@pytest.mark.parametrize("text", ["{", "[1]", "3", '"a"'])
def test_a_damaged_job_is_a_mistake(told, saved, text):
    assert "a.safetensors" in told(*TRAIN, "--from", str(saved(text)))[0]


def test_a_file_without_a_job_is_a_mistake(told, tmp_path):
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "b.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    assert told(*TRAIN, "--from", str(path))
    assert told(*TRAIN, "--from", str(tmp_path / "none.safetensors"))
    assert told(*TRAIN, "--from", str(tmp_path))


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--network_dmi", "8"], "network_dmi: no such setting; did you mean network_dim?"),
        (["--network.dmi", "8"], "network.dmi: no such setting; did you mean network.dim?"),
        (["--network_dim", "0"], "network.dim = 0: expected 1 to 512"),
        (["--network_dim", "8", "9"], "9"),
        (["--network_dim"], "network_dim: expected"),
        (["--output_name"], "output_name: expected"),
        (["stray"], "stray: expected options"),
        (["--noise_offset", "-1e-4"], "objective.noise_offset = -1e-4: expected 0 to 1"),
        (["--noise_offset", "-.5"], "objective.noise_offset = -.5: expected 0 to 1"),
        (["--deepspeed"], "deepspeed = true: many cards each hold the whole model"),
        (
            ["--network_module", "networks.lora_flux"],
            "network_module = networks.lora_flux: not in this version",
        ),
        (["--optimizer_type", "Nobodys"], "optimizer.kind = Nobodys: expected adamw"),
        (["--config_file", "/no/such/file.toml"], "file.toml"),
        (["--dataset_config", "/no/such/file.toml"], "file.toml"),
        (["--resume", "/no/such/folder"], "folder"),
        (["--data.datasets.0.subsets.0.num_repeat", "5"], "num_repeats"),
    ],
)
def test_a_mistake_is_a_line_and_status_2(asked, told, words, part):
    lines = told(*TRAIN, *words)
    assert len(lines) == 1
    assert part in lines[0]
    assert not asked


def test_all_mistakes_are_told_at_once(asked, told):
    lines = told(*TRAIN, "--network_dim", "0", "--save_precision", "x", "--device", "tpu", "--seed", "-1")
    assert len(lines) == 4


def test_unknown_options_are_told_all_at_once(asked, told):
    lines = told(*TRAIN, "--network_dmi", "8", "--learnign_rate", "1")
    assert [line.partition(":")[0] for line in lines] == ["network_dmi", "learnign_rate"]


def test_an_option_without_effect_says_so_and_the_run_goes_on(asked, told):
    lines = told(*TRAIN, "--xformers", "--lowram", "--network_dim", "8", status=0)
    assert any(line.startswith("xformers has no effect here") for line in lines)
    assert any(line.startswith("lowram has no effect here") for line in lines)
    assert len(asked) == 1


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["-h"], ["train", "--help"], ["sample", "-h"], ["settings", "-h"]]
)
def test_help_is_not_a_mistake(capsys, words):
    assert main(words) == 0
    assert "usage" in capsys.readouterr().out


def test_the_help_of_train_says_what_each_setting_does(capsys):
    main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for s in declared():
        if ".N." not in s.path:
            assert f"--{s.path}" in text
            assert all(f"--{name}" in text for name in s.aka)
            assert s.help.partition(".")[0].split(" ")[0] in text


@pytest.mark.parametrize("words", [["trian"], ["--nothing"], ["--"]])
def test_there_is_no_such_command(told, words):
    assert told(*words)


def test_the_nearest_command_is_offered(told):
    assert "train" in told("trian")[0]


def test_a_fault_of_ours_is_status_1_with_a_trace_and_a_line(monkeypatch, caplog):
    def run(*args, **kwargs):
        raise RuntimeError("a fault")

    monkeypatch.setattr("lora_train.run.session.run", run)
    assert main([*TRAIN]) == 1
    text = caplog.text
    assert "report" in text
    assert "RuntimeError: a fault" in text


@pytest.mark.parametrize("error", [Mistake("a = 1: expected 2"), KeyboardInterrupt()])
def test_a_mistake_or_a_stop_within_a_run_leaves_no_trace(monkeypatch, told, error):
    def run(*args, **kwargs):
        raise error

    monkeypatch.setattr("lora_train.run.session.run", run)
    assert told(*TRAIN, status=2 if isinstance(error, Mistake) else 130)


def test_a_stopped_run_says_how_to_go_on(monkeypatch, told):
    progress = types.SimpleNamespace(stopped=True, step=5)
    outcome = types.SimpleNamespace(progress=progress, file="f", state="out/x-state")
    monkeypatch.setattr("lora_train.run.session.run", lambda *a, **k: outcome)
    assert any("--resume out/x-state" in line for line in told(*TRAIN, status=130))


def test_the_page_of_settings_lists_each_once_and_knows_when_it_is_old(told, capsys, tmp_path):
    assert main(["settings"]) == 0
    page = capsys.readouterr().out
    for s in declared():
        assert page.count(f"| `{s.path}` |") == 1
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
    path = tmp_path / "settings.md"
    path.write_text(page, encoding="utf-8")
    assert main(["settings", "--check", str(path)]) == 0
    path.write_text(page + "more", encoding="utf-8")
    assert "settings" in told("settings", "--check", str(path))[0]
    assert told("settings", "--check", str(tmp_path / "none.md"))


def test_a_package_that_is_not_installed_is_named(told, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)

    def lacking(words):
        import diffusers  # noqa: F401

    monkeypatch.setitem(COMMANDS, "train", (lacking, ""))
    assert told("train") == [
        "this needs the package diffusers; in lora-train's folder, pip install '.[standalone]' brings it"
    ]


def test_asking_for_help_loads_no_torch():
    code = (
        "import sys; from lora_train.cli import main; status = main(['--help']); "
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy', 'PIL'} & set(sys.modules); "
        "assert status == 0 and not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_flat_names_are_each_of_one_setting():
    names = [name for s in declared() if ".N." not in s.path for name in s.aka]
    assert sorted(names) == sorted(set(names))


def test_defaults_alone_make_a_job():
    job, output, place = assemble({})
    assert assemble({}) == (job, output, place)


def test_letters_that_a_file_or_console_has_not(monkeypatch, tmp_path):
    """Windows writes redirected output in its old code page."""
    (tmp_path / "\u540d.png").write_bytes(b"")
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="cp1252"))
    assert main(["dataset", "captions", str(tmp_path), "--add", "x", "--dry_run"]) == 0
    sys.stdout.flush()
    assert b"\\u540d.png" in out.getvalue()
