"""Pictures that are put aside take with them what is theirs, leave what is another's, and come back."""

from __future__ import annotations

import pytest
from PIL import Image

from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.workshop.aside import Aside
from lora_train.workshop.journal import HOME, Journal
from lora_train.workshop.opened import ASIDE, Opened
from tests.troubled import encoded, scene


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "set"
    (root / "sub").mkdir(parents=True)
    for i, name in enumerate(("a.png", "a.jpg", "b.png", "b-masklabel.png", "sub/c.png")):
        kind = "JPEG" if name.endswith("jpg") else "PNG"
        (root / name).write_bytes(encoded(scene(i, (300, 300)), kind))
    for name in (
        "a.txt",
        "b.txt",
        "b.caption",
        "b.npz",
        "b_0512x0512_sd.npz",
        "sub/c.txt",
        "gone.txt",
        "z.doc",
    ):
        (root / name).write_text(f"of {name}")
    return root


def files(root) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and HOME not in path.parts
    }


def aside(folder, **values):
    return build(Aside, {"folder": folder, **values})


def moved(before, after) -> set[str]:
    gone = {*before} - {*after}
    assert {*after} - {*before} == {f"{ASIDE}/{name}" for name in gone}
    assert all(after[f"{ASIDE}/{name}"] == before[name] for name in gone)
    return gone


def test_a_picture_goes_with_all_that_is_its_own(folder):
    before = files(folder)
    report = aside(folder, names=("b.png",)).run()
    assert moved(before, files(folder)) == {
        "b.png", "b.txt", "b.caption", "b.npz", "b_0512x0512_sd.npz", "b-masklabel.png"}  # fmt: skip
    assert report.facts["changed"] == 1
    Journal(folder).undo()
    assert files(folder) == before


def test_a_caption_that_another_picture_has_stays_until_both_go(folder):
    before = files(folder)
    aside(folder, names=("a.png",)).run()
    assert moved(before, files(folder)) == {"a.png"}
    aside(folder, names=("a.jpg",)).run()
    assert moved(before, files(folder)) == {"a.png", "a.jpg", "a.txt"}


def test_both_go_with_their_caption(folder):
    before = files(folder)
    aside(folder, names=("a.png", "a.jpg")).run()
    assert moved(before, files(folder)) == {"a.png", "a.jpg", "a.txt"}


def test_what_was_put_aside_is_not_looked_into(folder):
    aside(folder, recursive=True, names=("sub/c.png",)).run()
    assert (folder / ASIDE / "sub" / "c.txt").is_file()
    assert "sub/c.png" not in Opened(folder, recursive=True).entries
    assert len(Opened(folder, recursive=True)) == 4


def test_a_second_one_of_its_name_gets_a_number_with_all_that_is_its_own(folder):
    aside(folder, names=("b.png",)).run()
    (folder / "b.png").write_bytes(encoded(scene(9, (300, 300)), "PNG"))
    (folder / "b.txt").write_text("new")
    aside(folder, names=("b.png",)).run()
    assert (folder / ASIDE / "b (2).txt").read_text() == "new"
    assert (folder / ASIDE / "b.txt").read_text() == "of b.txt"
    assert Image.open(folder / ASIDE / "b (2).png").size == (300, 300)


def test_orphans_go_and_other_files_stay(folder):
    before = files(folder)
    work = aside(folder, problems=("orphan",))
    assert work.foreseen(Opened(folder))["count"] == 1
    work.run()
    assert moved(before, files(folder)) == {"gone.txt"}


def test_of_pictures_that_are_the_same_the_captioned_one_stays(folder):
    (folder / "a.txt").unlink()
    (folder / "copy.png").write_bytes((folder / "a.png").read_bytes())
    (folder / "copy.txt").write_text("sky")
    (folder / "cut.png").write_bytes((folder / "b.png").read_bytes()[:5000])
    before = files(folder)
    work = aside(folder, problems=("same", "truncated"))
    assert work.foreseen(Opened(folder))["count"] is None
    work.run()
    assert moved(before, files(folder)) == {"a.png", "cut.png"}


def test_a_dry_run_does_nothing(folder):
    before = files(folder)
    report = aside(folder, names=("b.png",), dry_run=True).run()
    assert files(folder) == before
    assert report.facts["changed"] == 1


def test_all_at_once_is_refused_and_so_are_problems_that_nothing_is_put_aside_for(folder):
    before = files(folder)
    with pytest.raises(Mistake, match="all would be put aside"):
        aside(folder).run()
    with pytest.raises(Mistake, match="problems = .*turned.*: expected"):
        aside(folder, problems=("turned",))
    assert files(folder) == before


def test_of_a_picture_and_a_link_to_it_the_picture_stays(folder):
    (folder / "0.png").symlink_to("b.png")
    (folder / "0.txt").write_text("sky")
    before = {*files(folder)}
    aside(folder, problems=("same",)).run()
    assert (folder / "b.png").is_file()
    assert {*files(folder)} & before == before - {"0.png", "0.txt"}
