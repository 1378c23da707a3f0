"""Pictures get new names, and what belongs to each goes with it, there and back."""

from __future__ import annotations

import os

import pytest
from PIL import Image

from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.workshop.journal import HOME, Journal
from lora_train.workshop.rename import Rename


def make(folder, *names):
    """Pictures are told apart by their bytes, all else by its text."""
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".png", ".jpg"):
            Image.new("RGB", (8 + i, 8)).save(path)
        else:
            path.write_text(name, encoding="utf-8")


def seen(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*")
            if p.is_file() and HOME not in p.parts}  # fmt: skip


def renamed(folder, **values):
    """{new name: old name}, found by content; and back again by undo."""
    before = seen(folder)
    build(Rename, {"folder": folder, **values}).run()
    after = seen(folder)
    by = {content: name for name, content in before.items()}
    assert len(by) == len(before)
    Journal(folder).undo()
    assert seen(folder) == before
    Journal(folder).redo()
    assert seen(folder) == after
    return {name: by[content] for name, content in after.items()}


def test_all_that_belongs_to_a_picture_goes_with_it(tmp_path):
    own = ["cat 10.png", "cat 10.txt", "cat 10.caption", "cat 10.json", "cat 10.wd14.txt", "cat 10.npz",
           "cat 10_0512x0768_sd.npz", "cat 10-masklabel.png"]  # fmt: skip
    other = ["cat 2.png", "cat 2.txt", "cat 2_b.jpg", "cat 2_b_0512x0512_sd.npz", "cat 2_b.txt", "notes.txt"]
    make(tmp_path, *own, *other)
    assert renamed(tmp_path, prefix="é ", pattern="{n:03d}") == {
        "é 001.png": "cat 2.png", "é 001.txt": "cat 2.txt",
        "é 002.jpg": "cat 2_b.jpg", "é 002.txt": "cat 2_b.txt",
        "é 002_0512x0512_sd.npz": "cat 2_b_0512x0512_sd.npz",
        **{f"é 003{name[6:]}": name for name in own}, "notes.txt": "notes.txt",
    }  # fmt: skip


def test_names_go_round(tmp_path):
    make(tmp_path, "1.png", "1.txt", "2.png", "2.txt", "3.png", "3.txt")
    os.utime(tmp_path / "3.png", ns=(1, 1))
    os.utime(tmp_path / "1.png", ns=(2, 2))
    found = renamed(tmp_path, pattern="{n}", order="date")
    assert found == {
        f"{new}{end}": f"{old}{end}" for new, old in ((1, 3), (2, 1), (3, 2)) for end in (".png", ".txt")
    }


def test_pictures_that_share_a_name_go_on_sharing_it(tmp_path):
    make(tmp_path, "a.png", "a.jpg", "a.txt", "b.png")
    assert renamed(tmp_path, pattern="{name} {n}", start=0) == {
        "a 0.png": "a.png", "a 0.jpg": "a.jpg", "a 0.txt": "a.txt", "b 1.png": "b.png"}  # fmt: skip


def test_masks_in_a_folder_of_theirs_and_caches_that_go(tmp_path):
    make(tmp_path, "a.png", "a.npz", "b.png", "masks/a.png", "masks/b.png", "masks/c.png")
    build(Rename, {"folder": tmp_path, "pattern": "x{n}", "caches": "drop",
                   "conditioning_data_dir": tmp_path / "masks", "recursive": True}).run()  # fmt: skip
    assert set(seen(tmp_path)) == {"x1.png", "x2.png", "masks/x1.png", "masks/x2.png", "masks/c.png"}
    Journal(tmp_path).undo()
    assert (tmp_path / "a.npz").read_text(encoding="utf-8") == "a.npz"


def test_folders_within_keep_their_pictures(tmp_path):
    make(tmp_path, "one/a.png", "one/a.txt", "two/a.png", "two/a.txt")
    assert renamed(tmp_path, recursive=True) == {
        "one/0001.png": "one/a.png", "one/0001.txt": "one/a.txt", "two/0002.png": "two/a.png",
        "two/0002.txt": "two/a.txt"}  # fmt: skip


def test_what_is_foreseen_is_what_is_done(tmp_path):
    make(tmp_path, "a.png", "a.txt", "0002.png")
    work = build(Rename, {"folder": tmp_path, "names": ["a.png"], "start": 7})
    said = work.foreseen(work.opened())
    assert (said["count"], said["examples"][0]["what"]) == (1, "-> 0007.png, with 1 more")
    work.run()
    assert set(seen(tmp_path)) == {"0007.png", "0007.txt", "0002.png"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"pattern": "cat"}, "expected {n} or {name} in it"),
        ({"pattern": "{m}"}, "expected {n}, {n:04d} or {name} in it"),
        ({"pattern": "{n"}, "expected {n}, {n:04d} or {name} in it"),
        ({"prefix": "a/"}, "expected no /"),
        ({"pattern": "{n}."}, "expected no /"),
        ({"pattern": "{n}", "start": 2, "names": ["a.png"]}, "2.png: is there already"),
        ({"pattern": "{n}" + "x" * 260}, "expected at most 255"),
        ({"conditioning_data_dir": "none"}, "expected a folder of masks within"),
    ],
)
def test_what_cannot_work_is_refused_and_nothing_is_done(tmp_path, values, said):
    make(tmp_path, "a.png", "2.png")
    before = seen(tmp_path)
    for dry in (True, False):  # what would not be done is not foreseen either
        with pytest.raises(Mistake) as caught:
            build(Rename, {"folder": tmp_path, "dry_run": dry, **values}).run()
        assert said in str(caught.value)
    assert seen(tmp_path) == before


@pytest.mark.parametrize("pattern", ["{n:0999999999d}", "{n.real}", "{name[0]}{n}", "{n", "{n!r:>9999999}"])
def test_patterns_that_only_programmers_know(tmp_path, pattern):
    with pytest.raises(Mistake, match="expected {n}"):
        build(Rename, {"folder": tmp_path, "pattern": pattern})
