"""What a saved file says of itself, what it keeps to itself, and which of two settings holds."""

import base64
import json
import logging
import pathlib

import pytest
from PIL import Image
from safetensors import safe_open

from lora_train.errors import Mistake
from lora_train.hosts.standalone.host import StandaloneHost
from lora_train.job import Card, assemble, declared
from lora_train.options import train_values


def texts(path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


CARD = ("title", "author", "description", "license", "tags", "usage_hint", "merged_from", "trigger_phrase",
        "preprocessor", "is_negative_embedding")  # fmt: skip


def test_every_line_of_the_card_goes_by_sd_scripts_name_into_the_file(trained):
    words = [word for name in CARD for word in (f"--metadata_{name}", f"my {name}")]
    values, _ = train_values(words, declared())
    assert len(values) == len(CARD)
    done = trained("a", **{path.replace(".", "__"): value for path, value in values.items()})
    found = texts(done.file)
    assert {name: found[f"modelspec.{name}"] for name in CARD} == {name: f"my {name}" for name in CARD}
    assert {*CARD, "thumbnail"} == set(vars(Card()))


def test_an_empty_card_has_the_name_and_the_comment(trained):
    found = texts(trained("a", output__training_comment="a try").file)
    assert (found["modelspec.title"], found["modelspec.description"]) == ("x", "a try")
    assert not {f"modelspec.{name}" for name in CARD[3:]} & found.keys()


def test_a_thumbnail_is_in_the_file_whole_and_its_path_is_not(trained, tmp_path):
    picture = tmp_path / "thumb.png"
    Image.new("RGB", (8, 8), "red").save(picture)
    done = trained("a", output__card__thumbnail=str(picture))
    kind, _, data = texts(done.file)["modelspec.thumbnail"].partition(";base64,")
    assert (kind, base64.b64decode(data)) == ("data:image/png", picture.read_bytes())
    assert str(picture) not in json.dumps(texts(done.file))
    url = "data:image/png;base64,AAAA"
    assert texts(trained("b", output__card__thumbnail=url).file)["modelspec.thumbnail"] == url


@pytest.mark.parametrize(
    ("data", "complaint"),
    [(None, "expected a picture"), (b"no picture", "expected a picture"), (2**20, "at most 1 MB")],
)
def test_a_thumbnail_that_is_none_is_refused_before_the_start(trained, tmp_path, data, complaint):
    picture = tmp_path / "thumb.png"
    if data == 2**20:
        Image.effect_noise((1400, 1400), 99).save(picture)
    elif data is not None:
        picture.write_bytes(data)
    with pytest.raises(Mistake, match=rf"^output\.card\.thumbnail = .*thumb\.png: .*{complaint}"):
        trained("a", output__card__thumbnail=str(picture))
    assert not (tmp_path / "a").exists()


def test_no_metadata_leaves_what_is_needed_and_the_card(trained):
    found = texts(trained("a", output__no_metadata=True, output__card__author="me").file)
    own = {name for name in found if not name.startswith("modelspec.")}
    assert own == {
        "ss_v2", "ss_base_model_version", "ss_network_module", "ss_network_dim", "ss_network_alpha",
        "ss_network_args", "sshs_model_hash", "sshs_legacy_hash",
    } - ({"ss_network_args"} - found.keys())  # fmt: skip
    assert found["modelspec.author"] == "me"


def saved(folder) -> list[str]:
    return sorted(p.stem for p in folder.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("ratio", "epochs", "files"),
    [
        (2, 4, ["x", "x-000002"]),
        (4, 4, ["x", "x-000001", "x-000002", "x-000003"]),
        (3, 4, ["x", "x-000001", "x-000002", "x-000003"]),
        (9, 2, ["x", "x-000001"]),
    ],
)
def test_files_are_saved_by_a_share_of_the_epochs_as_in_sd_scripts(trained, tmp_path, ratio, epochs, files):
    """Every floor(epochs / ratio), or 1; it holds over save_every_n_epochs."""
    trained(
        "a", training__max_train_epochs=epochs, output__save_n_epoch_ratio=ratio,
        output__save_every_n_epochs=3,
    )  # fmt: skip
    assert saved(tmp_path / "a") == files


def test_epochs_hold_over_steps_for_the_length_for_saves_and_for_samples(trained, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat --w 64 --h 64 --d 1\n", encoding="utf-8")
    done = trained(
        "a", training__max_train_epochs=2, training__max_train_steps=3,
        output__save_every_n_epochs=1, output__save_every_n_steps=2,
        output__sample_prompts=prompts, output__sample_every_n_epochs=2, output__sample_every_n_steps=2,
    )  # fmt: skip
    assert done.progress.step == 12
    assert saved(tmp_path / "a") == ["x", "x-000001"]
    assert [p.name[:11] for p in (tmp_path / "a" / "sample").iterdir()] == ["x_e000002_0"]
    for what in ("save", "sample"):
        assert caplog.text.count(f"{what}_every_n_steps has no effect here") == 1


def test_the_rate_of_a_part_holds_over_the_learning_rate(trained):
    done = trained("a", lr__learning_rate=0.5, lr__unet_lr=0.01)
    assert done.progress.rates == {"unet": 0.01, "te1": 0.5}


@pytest.mark.parametrize(
    ("name", "over"),
    [
        ("training.max_train_epochs", "max_train_steps"),
        ("output.save_every_n_epochs", "save_every_n_steps"),
        ("output.save_n_epoch_ratio", "save_every_n_epochs"),
        ("output.sample_every_n_epochs", "sample_every_n_steps"), ("lr.unet_lr", "learning_rate"),
        ("lr.text_encoder_lr", "learning_rate"),
    ],
)  # fmt: skip
def test_the_help_says_which_of_two_settings_holds(name, over):
    (text,) = [s.help for s in declared() if s.path == name]
    assert f"overrides {over}" in text


def test_a_ratio_of_0_is_none_as_in_sd_scripts():
    values, _ = train_values(["--save_n_epoch_ratio", "0"], declared())
    assert assemble(values)[1].save_n_epoch_ratio is None


def carded(tmp_path, done, **values):
    """What a host leaves beside the file of a run."""
    usual = {
        "data.train_data_dir": tmp_path / "pictures", "output.output_dir": tmp_path / "a",
        "output.output_name": "x", "training.max_train_steps": 8, "data.trigger_word": "zwx",
    }  # fmt: skip
    job, output, _ = assemble({**usual, **values})
    assert StandaloneHost().announce(done.file, job, output) == []
    return json.loads(done.file.with_suffix(".json").read_text(encoding="utf-8"))


def test_a_webuis_list_shows_the_file_with_its_words_and_a_sample(trained, tmp_path):
    done = trained("a", output__sample_every_n_steps=8, data__trigger_word="zwx")
    card = carded(tmp_path, done)
    assert (card["activation text"], card["sd version"], card["preferred weight"]) == ("zwx", "SD1", 1.0)
    assert "8 steps" in card["notes"]
    text = (tmp_path / "a" / "x-run" / "samples.jsonl").read_text(encoding="utf-8")
    sample = pathlib.Path(json.loads(text.splitlines()[-1])["file"])
    assert "_base_" not in sample.name  # as the one of the same prompt without the adapters is called
    assert done.file.with_suffix(".preview.png").read_bytes() == sample.read_bytes()


def test_what_a_person_wrote_on_the_card_stays(trained, tmp_path):
    done = trained("a", output__sample_every_n_steps=8)
    own, picture = {"notes": "mine", "description": "", "extra": [1]}, done.file.with_suffix(".jpg")
    done.file.with_suffix(".json").write_text(json.dumps(own), encoding="utf-8")
    picture.write_bytes(b"a picture")
    card = carded(tmp_path, done, **{"output.card.description": "a thing"})
    assert (card["notes"], card["extra"], card["description"]) == ("mine", [1], "a thing")
    assert not done.file.with_suffix(".preview.png").exists()


def test_a_file_of_the_cards_name_that_is_none_is_left_alone(trained, tmp_path):
    done = trained("a")
    done.file.with_suffix(".json").write_text('{"schema": 1}', encoding="utf-8")
    assert carded(tmp_path, done) == {"schema": 1}
