"""What folders and files of captions come to, beyond a plain folder: see test_folder.py for that."""

import collections
import json
import logging
import os

import pytest

from lora_train.data.buckets import Resolution
from lora_train.data.folder import Data, Dataset, Subset
from lora_train.data.memory import Memory
from lora_train.data.plan import apportioned, plan, survey
from lora_train.errors import Mistake
from lora_train.job import assemble
from lora_train.knobs import build


def data(**values) -> Data:
    return build(Data, {"resolution": 64, **values})


def kinds(findings) -> dict[str, list[str]]:
    found = collections.defaultdict(list)
    for finding in findings:
        found[finding.kind].append(finding.path.name)
    return dict(found)


@pytest.fixture
def metadata(tmp_path):
    def metadata(entries, name="meta.json", encoding="utf-8"):
        path = tmp_path / name
        path.write_text(entries if isinstance(entries, str) else json.dumps(entries), encoding=encoding)
        return path

    return metadata


@pytest.fixture
def pair(make, tmp_path):
    make("p/a.png", caption="not this"), make("p/b.png"), make("p/c.png")
    return tmp_path / "p"


def captions(planned) -> dict[str, str]:
    return {item.path.name: item.caption for item in planned.items}


def test_a_metadata_file_says_captions_and_tags(pair, metadata):
    file = metadata(
        {
            "a": {"caption": "one", "tags": "x, y"},
            "b.png": {"tags": "z"},
            str(pair / "c"): {"caption": "three"},
        }
    )
    planned = plan(data(train_data_dir=pair, in_json=file))
    assert captions(planned) == {"a.png": "one, x, y", "b.png": "z", "c.png": "three"}
    subset = {"datasets.0.subsets.0.image_dir": pair, "datasets.0.subsets.0.metadata_file": file}
    assert captions(plan(data(**subset))) == captions(planned)


def test_lines_of_a_metadata_file_are_chosen_among_by_wildcards(pair, metadata):
    file = metadata({"a": {"caption": "one\ntwo", "tags": "x"}, "b": "plain", "c": {"caption": ""}})
    assert captions(plan(data(train_data_dir=pair, in_json=file, enable_wildcard=True))) == {
        "a.png": "one, x\ntwo, x", "b.png": "plain", "c.png": ""}  # fmt: skip
    assert captions(plan(data(train_data_dir=pair, in_json=file)))["a.png"] == "one two, x"


def test_pictures_that_a_metadata_file_does_not_name_are_left_out_and_told(pair, metadata, caplog):
    caplog.set_level(logging.WARNING)
    planned = plan(data(train_data_dir=pair, in_json=metadata({"a": {"caption": "one"}})))
    assert captions(planned) == {"a.png": "one"}
    assert "2 pictures are not in their metadata file, and left out; the first: " in caplog.text


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ({"gone": {"caption": "x"}}, "gone: no such picture in"), ("{", "not JSON"), ([1], "in braces"),
        ({"a": 3}, "a: expected {caption, tags}"), ({"a": {"caption": 3}}, "caption and tags to be text"),
        ("[" * 100_000, "not JSON"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_metadata_file_names_it(pair, metadata, entries, text):
    file = metadata(entries)
    with pytest.raises(Mistake) as e:
        plan(data(train_data_dir=pair, in_json=file))
    assert str(file) in str(e.value)
    assert text in str(e.value)


def test_regularisation_from_a_metadata_file_is_refused_with_the_reason(pair, metadata):
    subset = {"image_dir": pair, "metadata_file": metadata({}), "is_reg": True}
    values = {f"data.datasets.0.subsets.0.{name}": value for name, value in subset.items()}
    with pytest.raises(Mistake, match="expected none for regularisation pictures, as in sd-scripts"):
        assemble(values)


def test_regularisation_folders_stand_beside_the_others(make, tmp_path):
    for n in range(3):
        make(f"train/2_sks/{n}.png", caption="sks dog")
    for n in range(5):
        make(f"reg/1_dog/{n}.png")
    planned = plan(
        data(train_data_dir=tmp_path / "train", reg_data_dir=tmp_path / "reg", prior_loss_weight=0.5)
    )
    (source,) = planned.sources
    assert [i.caption for i in source.items] == ["sks dog"] * 3 + ["dog"] * 5
    counts = {share.items: share.count for share in source.shares}
    assert counts == {(0, 1, 2): 6, (3,): 2, (4, 5, 6, 7): 4}
    assert planned.prior.prior(0) == 0.5


def test_regularisation_pictures_that_are_too_many_are_told(make, tmp_path, caplog):
    make("train/1_x/a.png")
    make("reg/1_y/a.png"), make("reg/1_y/b.png")
    caplog.set_level(logging.WARNING)
    plan(data(train_data_dir=tmp_path / "train", reg_data_dir=tmp_path / "reg"))
    assert "1 of 3 pictures are regularisation pictures that are not used" in caplog.text
    assert "b.png" in caplog.text


def test_regularisation_captions_do_not_get_the_trigger_word(make, tmp_path):
    make("train/1_x/a.png", caption="a dog")
    make("reg/1_dog/a.png")
    planned = plan(data(train_data_dir=tmp_path / "train", reg_data_dir=tmp_path / "reg", trigger_word="sks"))
    texts = [item.subset.apply(item.caption, None) for item in planned.items]
    assert texts == ["sks, a dog", "dog"]


def test_regularisation_alone_is_refused(pair):
    dataset = Dataset(subsets=(Subset(image_dir=pair, is_reg=True),))
    with pytest.raises(Mistake, match=r"datasets\.0\.subsets: expected one that is not is_reg"):
        plan(Data(datasets=(dataset,)))


def test_what_cannot_be_read_is_left_out_only_if_that_is_asked(make, tmp_path, caplog):
    make("p/a.png", caption="x")
    (tmp_path / "p" / "bad.png").write_bytes(b"no picture")
    make("p/c.png").with_suffix(".txt").write_bytes("café, élan, naïve".encode("cp1252"))
    with pytest.raises(Mistake) as e:
        plan(data(train_data_dir=tmp_path / "p"))
    assert "bad.png" in str(e.value)
    assert "c.txt" in str(e.value)
    caplog.set_level(logging.WARNING)
    planned = plan(data(train_data_dir=tmp_path / "p", skip_unreadable=True))
    assert [i.path.name for i in planned.items] == ["a.png"]
    assert "bad.png" in caplog.text
    assert "c.txt: expected UTF-8 text" in caplog.text
    planned = plan(data(train_data_dir=tmp_path / "p", skip_unreadable=True, caption_encoding="auto"))
    assert captions(planned) == {"a.png": "x", "c.png": "café, élan, naïve"}


def test_where_everything_is_left_out_the_run_is_refused(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(Mistake, match="no picture is left"):
        plan(data(train_data_dir=tmp_path, skip_unreadable=True))


def test_caption_files_of_no_picture_and_animations_are_told(make, tmp_path):
    picture = make("p/a.png", caption="x")
    (tmp_path / "p" / "gone.txt").write_text("y", encoding="utf-8")
    (tmp_path / "p" / "notes.md").write_text("y", encoding="utf-8")
    from PIL import Image

    still = Image.open(picture)
    still.save(
        tmp_path / "p" / "moves.webp", save_all=True, append_images=[still.transpose(0)], lossless=True
    )
    _, findings = survey(data(train_data_dir=tmp_path / "p"))
    assert kinds(findings) == {"mute": ["moves.webp"], "still": ["moves.webp"], "orphan": ["gone.txt"]}


def test_one_folder_at_several_resolutions_is_told_about_once(make, tmp_path):
    make("p/a.png"), make("p/b.png", caption="x")
    subsets = (Subset(image_dir=tmp_path / "p"),)
    datasets = tuple(
        Dataset(resolution=Resolution(s, s), batch_size=s // 64, subsets=subsets) for s in (64, 128)
    )
    planned, findings = survey(Data(datasets=datasets))
    assert kinds(findings) == {"mute": ["a.png"]}
    assert [(s.dataset.batch_size, [i.fit.bucket for i in s.items]) for s in planned.sources] == [
        (1, [(64, 64)] * 2), (2, [(128, 128)] * 2)]  # fmt: skip


@pytest.mark.parametrize(
    ("sizes", "total", "found"),
    [
        ([3, 3, 3], 9, [3, 3, 3]), ([5, 3, 2], 5, [3, 1, 1]), ([10, 1], 5, [4, 1]), ([1, 1, 1], 2, [1, 1, 1]),
        ([2, 2], 7, [4, 3]),
    ],
)  # fmt: skip
def test_samples_go_to_buckets_in_proportion_and_to_each_at_least_one(sizes, total, found):
    assert apportioned(sizes, total) == found


# ── memory ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def opened(monkeypatch):
    """Names of the pictures that were opened."""
    from lora_train.data import pictures

    names, size = [], pictures.size
    monkeypatch.setattr(pictures, "size", lambda path: names.append(path.name) or size(path))
    return names


def test_what_is_known_of_a_picture_is_not_looked_at_again_until_it_changes(make, tmp_path, opened):
    path, file = make("p/a.png"), tmp_path / "memory" / "pictures.sqlite"
    make("p/b.png")
    first = plan(data(train_data_dir=tmp_path / "p"), memory=Memory(file))
    assert opened == ["a.png", "b.png"]
    again = plan(data(train_data_dir=tmp_path / "p"), memory=Memory(file))
    assert opened == ["a.png", "b.png"]
    assert [i.size for i in again.items] == [i.size for i in first.items]
    make("p/a.png", (96, 64))
    os.utime(path, ns=(1, 1))
    changed = plan(data(train_data_dir=tmp_path / "p"), memory=Memory(file))
    assert opened == ["a.png", "b.png", "a.png"]
    assert [i.size for i in changed.items] == [(96, 64), (64, 64)]


def test_a_digest_is_remembered(make, tmp_path, monkeypatch):
    path, file = make("a.png"), tmp_path / "m.sqlite"
    memory = Memory(file)
    digest = memory.digest(path)
    memory.keep()
    monkeypatch.setattr("lora_train.data.pictures.digest", None)
    assert Memory(file).digest(path) == digest


@pytest.mark.parametrize("broken", ["no base", "a folder", "no folder"])
def test_a_memory_that_cannot_be_used_only_costs_time(make, tmp_path, broken, opened):
    make("p/a.png")
    file = tmp_path / "m.sqlite"
    if broken == "no base":
        file.write_bytes(b"this is not a base" * 100)
    elif broken == "a folder":
        file.mkdir()
    else:
        (tmp_path / "f").touch()
        file = tmp_path / "f" / "m.sqlite"
    for _ in range(2):
        assert len(plan(data(train_data_dir=tmp_path / "p"), memory=Memory(file)).items) == 1
    assert opened == ["a.png"] * 2
