"""Trackers are shown what sd-scripts shows them, and never what is nobody's business."""

import importlib.util
import json
import logging
import os

import numpy as np
import pytest
from PIL import Image

from lora_train.errors import Mistake
from lora_train.job import Output, assemble, declared
from lora_train.options import train_values
from lora_train.run import trackers
from lora_train.run.trackers import Lenient, Tracker
from tests.run.test_session import lines

TENSORBOARD = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed"
)
WANDB = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
TOML = pytest.mark.skipif(
    not any(map(importlib.util.find_spec, ("tomllib", "tomli"))),
    reason="reading TOML on Python 3.10 needs tomli",
)
SECRET = "0123456789abcdef" * 2 + "deadbeef"


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """wandb without its servers, its key known, and its own folders out of the way."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-own"))
    import wandb

    wandb.teardown()  # it reads the environment once
    yield
    wandb.teardown()


def prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a cat --w 64 --h 64 --d 1\n", encoding="utf-8")
    return file


def events(folder) -> dict[str, list]:
    """{tag: [event]} of all that TensorBoard's files in a folder hold."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    found.Reload()
    tags = found.Tags()
    scalars = {tag: found.Scalars(tag) for tag in tags["scalars"]}
    images = {tag: found.Images(tag) for tag in tags["images"]}
    return {**scalars, **images, **{tag: found.Tensors(tag) for tag in tags["tensors"]}}


@TENSORBOARD
def test_tensorboard_has_the_numbers_of_the_metrics_the_samples_and_the_settings(trained, tmp_path):
    done = trained(
        "a", output__log_with="tensorboard", output__logging_dir=tmp_path / "logs", output__log_prefix="try-",
        output__log_tracker_name="mine", output__log_config=True, output__sample_prompts=prompts(tmp_path),
        output__sample_every_n_steps=4, lr__unet_lr=0.01, lr__text_encoder_lr=0.005,
        network__scale_weight_norms=1.0,
    )  # fmt: skip
    (folder,) = (tmp_path / "logs").iterdir()
    assert folder.name.startswith("try-20")
    found = events(folder / "mine")
    told = lines(done)
    assert [e.value for e in found["loss/current"]] == pytest.approx([line["loss"] for line in told])
    assert [e.step for e in found["loss/average"]] == list(range(1, 9))
    assert found["lr/unet"][0].value == pytest.approx(0.01)
    assert found["lr/textencoder"][0].value == pytest.approx(0.005)
    assert [e.step for e in found["loss/epoch_average"]] == [6]
    assert len(found["max_norm/keys_scaled"]) == 8
    assert [e.step for e in found["sample_0"]] == [4, 8]
    text = found["settings/text_summary"][0].tensor_proto.string_val[0].decode()
    assert "network.dim" in text
    assert str(tmp_path) not in text


@TENSORBOARD
def test_settings_are_shown_to_a_tracker_only_if_asked_for(trained, tmp_path):
    trained("a", output__log_with="tensorboard", output__logging_dir=tmp_path / "logs")
    (folder,) = (tmp_path / "logs").iterdir()
    assert "settings/text_summary" not in events(folder / "network_train")


@TOML
@TENSORBOARD
def test_a_file_says_how_a_tracker_is_opened(trained, tmp_path):
    file = tmp_path / "trackers.toml"
    file.write_text('[tensorboard]\nfilename_suffix = ".mine"\n', encoding="utf-8")
    trained(
        "a", output__log_with="tensorboard", output__logging_dir=tmp_path / "logs",
        output__log_tracker_config=file,
    )  # fmt: skip
    (log,) = (tmp_path / "logs").glob("*/network_train/*")
    assert log.name.endswith(".mine")


@TOML
@TENSORBOARD
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[tensorboard]\nsuffix = 1\n", "tensorboard.suffix: expected comment"),
        ("[comet]\n", "comet: expected tables"),
        ("tensorboard = 1\n", "tensorboard: expected tables"),
        ("[tensorboard\n", "not TOML"),
        (None, "expected a TOML file"),
    ],
)
def test_a_wrong_file_of_a_tracker_is_refused_before_the_start(trained, tmp_path, text, complaint):
    file = tmp_path / "trackers.toml"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(Mistake, match=rf"^output\.log_tracker_config = .*{complaint}"):
        trained(
            "a", output__log_with="tensorboard", output__logging_dir=tmp_path / "logs",
            output__log_tracker_config=file,
        )  # fmt: skip
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("asked", ["tensorboard", "wandb", "all"])
def test_a_package_that_is_not_there_is_told_before_the_start_with_the_line_that_brings_it(
    trained, tmp_path, monkeypatch, asked
):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    kind = "wandb" if asked == "wandb" else "tensorboard"
    with pytest.raises(Mistake, match=f"log_with = {asked}: .*pip install {kind}"):
        trained("a", output__log_with=asked, output__logging_dir=tmp_path / "logs")
    assert not (tmp_path / "a").exists()


def test_where_logs_go_and_what_they_are_named_is_checked():
    for kind in ("tensorboard", "all"):
        with pytest.raises(Mistake, match=f"^output.log_with = {kind}: expected a logging_dir"):
            assemble({"output.log_with": kind})
    assert assemble({"output.log_with": "wandb"})[1].trackers == ("wandb",)
    with pytest.raises(Mistake, match="^output.log_prefix = a/b: expected"):
        assemble({"output.log_prefix": "a/b"})


class Broken(Tracker):
    def __init__(self):
        self.called = 0

    def measured(self, progress):
        self.called += 1
        raise OSError(28, "No space left on device")

    def finished(self, progress, error):
        raise AssertionError("it was left alone")


def test_a_tracker_that_fails_is_left_alone_with_one_line_and_the_run_goes_on(trained, caplog):
    broken = Broken()
    done = trained("a", watchers=[Lenient("tensorboard", broken)])
    assert (broken.called, done.progress.step) == (1, 8)
    told = [r.getMessage() for r in caplog.records if "tensorboard failed" in r.getMessage()]
    assert len(told) == 1
    assert "No space left" in told[0]


def test_a_tracker_that_cannot_be_opened_is_a_mistake(trained, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("no network")

    monkeypatch.setattr(trackers, "unready", lambda output: [])
    monkeypatch.setitem(trackers.TRACKERS, "wandb", broken)
    with pytest.raises(Mistake, match="wandb cannot be opened .no network."):
        trackers.trackers(Output(log_with="wandb"), tmp_path, {})


def test_a_name_for_wandb_without_wandb_says_so(trained, caplog):
    caplog.set_level(logging.INFO)
    trained("a", output__wandb_run_name="mine")
    assert "wandb_run_name has no effect here" in caplog.text


def every_byte(folder) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_the_key_is_taken_from_the_command_line_and_goes_nowhere_but_to_wandb(
    trained, tmp_path, monkeypatch, caplog, capsys
):
    monkeypatch.setenv("WANDB_API_KEY", "")
    values, notes = train_values(["--wandb_api_key", SECRET, "--network_dim", "2"], declared())
    assert os.environ["WANDB_API_KEY"] == SECRET
    assert (values, notes) == ({"network.dim": "2"}, [])
    trained("a", output__save_state=True, output__save_every_n_steps=4, **{
        path.replace(".", "__"): value for path, value in values.items()
    })  # fmt: skip
    assert SECRET.encode() not in every_byte(tmp_path)
    captured = capsys.readouterr()
    assert SECRET not in caplog.text + captured.out + captured.err


@TOML
@pytest.mark.parametrize("name", ["config.toml", "job.json"])
def test_a_key_in_a_file_is_refused_and_not_shown(tmp_path, monkeypatch, name):
    monkeypatch.setenv("WANDB_API_KEY", "")
    file = tmp_path / name
    toml = f'wandb_api_key = "{SECRET}"\n'
    record = json.dumps({"schema": 1, "values": {"wandb_api_key": SECRET}})
    file.write_text(toml if name.endswith("toml") else record, encoding="utf-8")
    with pytest.raises(Mistake, match="wandb_api_key: .*WANDB_API_KEY") as mistake:
        train_values(["--config_file", str(file)], declared())
    assert SECRET not in str(mistake.value)
    assert os.environ["WANDB_API_KEY"] == ""


@WANDB
def test_wandb_needs_a_key_unless_it_stays_on_this_machine(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (complaint,) = trackers.unready(Output(log_with="wandb"))
    assert "expected a key of wandb" in complaint
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert trackers.unready(Output(log_with="wandb")) == []


@WANDB
@TOML
def test_wandb_has_the_numbers_the_samples_and_the_settings_and_nothing_else(
    trained, tmp_path, offline, monkeypatch
):
    """Its offline file is what would be sent, all of it."""
    monkeypatch.setattr("sys.argv", ["lora-train", "train", "--wandb_api_key", SECRET])
    file = tmp_path / "trackers.toml"
    file.write_text('[wandb]\ntags = ["cats"]\n', encoding="utf-8")
    done = trained(
        "a", output__log_with="wandb", output__log_config=True, output__wandb_run_name="first",
        output__log_tracker_name="mine", output__log_tracker_config=file,
        output__sample_prompts=prompts(tmp_path), output__sample_every_n_steps=8,
    )  # fmt: skip
    (kept,) = (tmp_path / "a" / "x-run" / "wandb").glob("offline-run-*/*.wandb")
    run, history, config = read(kept)
    assert (run.project, run.display_name, list(run.tags)) == ("mine", "first", ["cats"])
    assert [row["loss/current"] for row in history] == pytest.approx([line["loss"] for line in lines(done)])
    assert history[-1]["sample_0.caption"] == "a cat"
    assert (config["network.dim"], config["output.output_name"]) == (4, "x")
    (picture,) = kept.parent.rglob("*.png")
    assert np.asarray(Image.open(picture)).shape == (64, 64, 3)

    written = every_byte(tmp_path)
    assert SECRET.encode() not in written
    texts = b"".join(
        path.read_bytes() for path in kept.parent.rglob("*") if path.suffix in (".wandb", ".yaml", ".json")
    )
    assert str(tmp_path / "pictures").encode() not in texts
    assert b"--wandb_api_key" not in written


def records(path):
    """The protocol buffers of a .wandb file: LevelDB's log format behind seven bytes."""
    data, at, parts = path.read_bytes(), 7, []
    while at + 7 <= len(data):
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if kind == 0 or 0x8000 - at % 0x8000 < 7:  # the rest of a block is padding
            at += 0x8000 - at % 0x8000
            continue
        parts.append(data[at + 7 : at + 7 + size])
        at += 7 + size
        if kind in (1, 4):  # a whole one, or the last part of one
            yield b"".join(parts)
            parts = []


def read(path):
    """(run record, rows of history, config) of an offline file."""
    from wandb.proto.wandb_internal_pb2 import Record

    run, history, config = None, [], {}
    for data in records(path):
        record = Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        run = record.run if kind == "run" else run
        items = record.run.config.update if kind == "run" else record.config.update
        config.update({i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items})
        if kind == "history":
            row = record.history.item
            history.append({i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in row})
    return run, [row for row in history if "loss/current" in row], config
