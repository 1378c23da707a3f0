"""A folder's journal: whole or not at all, wherever it is killed, and back again."""

from __future__ import annotations

import os
import pathlib
import stat

import pytest

from lora_train.errors import Mistake
from lora_train.workshop import journal as journals
from lora_train.workshop.journal import HOME, Journal
from lora_train.workshop.steps import SMALL

LARGE = b"x" * (SMALL + 1)


@pytest.fixture
def folder(tmp_path):
    """Captions and pictures, large and small, and names that go round."""
    home = tmp_path / "pictures"
    home.mkdir()
    for i in range(3):
        (home / f"{i}.txt").write_bytes(f"old {i}".encode())
        (home / f"{i}.png").write_bytes(LARGE + bytes([i]))
    return home


def put(folder):
    """A change of every kind at once."""
    with Journal(folder).change("everything") as draft:
        for i in range(3):
            draft.put(folder / f"{i}.txt", f"new {i}".encode())
        draft.put(folder / "0.png", LARGE + b"new")
        draft.put(folder / "extra.txt", b"came")
        draft.put(folder / "big extra.txt", LARGE)
        draft.remove(folder / "1.png")
        draft.move(folder / "2.png", folder / "1.png")  # where the one is that goes


def seen(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*")
            if p.is_file() and HOME not in p.parts}  # fmt: skip


def names(folder):
    return [path.name for path in folder.iterdir()]


def test_there_and_back(folder):
    before = seen(folder)
    put(folder)
    after = seen(folder)
    assert after["0.txt"] == b"new 0"
    assert after["0.png"] == LARGE + b"new"
    assert after["1.png"] == LARGE + b"\x02"
    assert "2.png" not in after
    assert after["extra.txt"] == b"came"
    assert after["big extra.txt"] == LARGE
    assert Journal(folder).undo().title == "everything"
    assert seen(folder) == before
    assert Journal(folder).redo().title == "everything"
    assert seen(folder) == after
    assert Journal(folder).redo() is None
    Journal(folder).undo()
    assert seen(folder) == before
    assert Journal(folder).undo() is None


@pytest.mark.parametrize("circle", [("0.txt", "1.txt"), ("0.txt", "1.txt", "2.txt")])
def test_names_go_round(folder, circle):
    before, turned = seen(folder), [*circle[1:], circle[0]]
    moved(folder, dict(zip(circle, turned, strict=True)))
    assert [seen(folder)[to] for to in turned] == [before[name] for name in circle]
    Journal(folder).undo()
    assert seen(folder) == before


def test_one_name_in_capitals(folder):
    with Journal(folder).change("capitals") as draft:
        draft.move(folder / "0.txt", folder / "0.TXT")
    assert "0.TXT" in names(folder)
    assert "0.txt" not in names(folder)
    Journal(folder).undo()
    assert "0.txt" in names(folder)


def refused(*given):
    raise OSError(95, "Operation not supported")


def copied(folder, to):
    to.mkdir()
    for name, content in seen(folder).items():
        (to / name).write_bytes(content)
    return to


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked, and killed by a signal")
@pytest.mark.parametrize("links", [True, False])
def test_killed_at_every_touch_of_the_disk(folder, tmp_path, monkeypatch, links):
    if not links:  # as on exFAT
        monkeypatch.setattr(os, "link", refused)
    before = seen(folder)
    put(folder)
    after = seen(folder)
    Journal(folder).undo()
    olds, most = {*before.values()}, 0
    while True:
        most += 1
        home = copied(folder, tmp_path / f"do {most}")
        if not forked(home, put, most):
            break
        now = seen(home)
        for name in ("0.txt", "1.txt", "2.txt"):
            assert now[name] in (before[name], after[name]), (most, name)
        assert olds <= {*now.values()} | kept(home), most  # nothing is lost at any time
        Journal(home).recover()
        assert seen(home) == before, most
    assert most > 30
    for turn in range(1, 200):
        home = copied(folder, tmp_path / f"undo {turn}")
        put(home)
        if not forked(home, lambda folder: Journal(folder).undo(), turn):
            break
        Journal(home).recover()
        assert seen(home) in (before, after), turn
    assert turn > 10


def kept(home):
    """What the journal has of the old contents."""
    texts = {step.before for change in Journal(home).changes() for step in change.steps}
    files = {path.read_bytes() for path in (home / HOME).rglob("*.old")}
    return files | {text.encode("latin-1") for text in texts if text is not None}


def forked(folder, act, most):
    """Whether the child died before it was done."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 77, status
        return os.WIFSIGNALED(status)
    try:
        count = 0

        def dying(function):
            def once(*given, **named):
                nonlocal count
                count += 1
                if count == most:
                    os.kill(os.getpid(), 9)
                return function(*given, **named)

            return once

        for name in ("rename", "replace", "unlink", "write_bytes", "open"):
            setattr(pathlib.Path, name, dying(getattr(pathlib.Path, name)))
        os.link, os.fsync = dying(os.link), dying(os.fsync)
        act(folder)
    except BaseException:  # noqa: BLE001 (of a child nothing may come back)
        os._exit(1)
    os._exit(77)


def test_what_fails_half_way_is_taken_back(folder, monkeypatch):
    before = seen(folder)

    def full(path, content):
        if path.name == "2.txt":
            raise OSError(28, "No space left on device", str(path))
        plain(path, content)

    plain = journals.steps.replace
    monkeypatch.setattr(journals.steps, "replace", full)
    with pytest.raises(Mistake, match="No space left"):
        put(folder)
    assert seen(folder) == before


def test_what_something_else_has_changed_stays(folder):
    put(folder)
    (folder / "1.txt").write_bytes(b"by hand")
    after = seen(folder)
    with pytest.raises(Mistake, match=r"1\.txt: was changed since"):
        Journal(folder).undo()
    assert seen(folder) == after


def test_the_others_are_taken_back_where_that_is_asked_for(folder):
    before = seen(folder)
    put(folder)
    (folder / "1.txt").write_bytes(b"by hand")
    Journal(folder).undo(leave=True)
    assert seen(folder) == {**before, "1.txt": b"by hand"}
    Journal(folder).redo()
    assert seen(folder)["1.txt"] == b"by hand"
    assert seen(folder)["0.txt"] == b"new 0"


def moved(folder, moves):
    with Journal(folder).change("move") as draft:
        for name, to in moves.items():
            draft.move(folder / name, folder / to)


def test_in_the_way(folder):
    before = seen(folder)
    for complaint, moves in (("is there already", {"0.txt": "1.png"}),
                             ("two files", {"0.txt": "new", "1.txt": "new"})):  # fmt: skip
        with pytest.raises(Mistake, match=complaint):
            moved(folder, moves)
    assert seen(folder) == before
    assert not Journal(folder).changes()


def overwritten(folder, paths):
    with Journal(folder).change("all") as draft:
        for path in paths:
            draft.put(path, b"new")


def test_read_only_and_outside(folder, tmp_path):
    (folder / "0.txt").chmod(stat.S_IREAD)
    other = tmp_path / "other.txt"
    other.write_bytes(b"other")
    (folder / "link.txt").symlink_to(other)
    before = seen(folder)
    every = [*(folder / name for name in ("0.txt", "1.txt", "link.txt")), other]
    with pytest.raises(Mistake) as caught:
        overwritten(folder, every)
    assert "0.txt: may only be read" in str(caught.value)
    assert "link.txt: a link to outside" in str(caught.value)
    assert "other.txt: lies outside" in str(caught.value)
    assert seen(folder) == before
    with Journal(folder, links=True).change("all") as draft:
        draft.put(folder / "link.txt", b"new")
    assert other.read_bytes() == b"new"
    assert (folder / "link.txt").is_symlink()
    Journal(folder, links=True).undo()
    assert other.read_bytes() == b"other"
    assert (folder / "link.txt").is_symlink()


def test_one_at_a_time(folder):
    with (
        Journal(folder).change("one") as draft,
        pytest.raises(Mistake, match="another program"),
        Journal(folder).change("two"),
    ):
        pass
    assert not draft.steps


def test_a_new_change_forgets_what_was_undone(folder):
    for word in (b"a", b"b"):
        with Journal(folder).change(word.decode()) as draft:
            draft.put(folder / "0.txt", word)
    Journal(folder).undo()
    with Journal(folder).change("c") as draft:
        draft.put(folder / "0.txt", b"c")
    assert [change.title for change in Journal(folder).changes()] == ["a", "c"]
    Journal(folder).forget()
    assert not Journal(folder).changes()
    assert (folder / "0.txt").read_bytes() == b"c"


def test_unchanged_is_no_change(folder):
    with Journal(folder).change("nothing") as draft:
        draft.put(folder / "0.txt", b"old 0")
    assert not Journal(folder).changes()


def test_rights_stay(folder):
    (folder / "0.txt").chmod(0o640)
    with Journal(folder).change("text") as draft:
        draft.put(folder / "0.txt", b"new")
    assert stat.S_IMODE((folder / "0.txt").stat().st_mode) == 0o640


def meanwhile(folder, put, touch):
    with Journal(folder).change("long") as draft:
        put(draft)
        touch()


@pytest.mark.parametrize("name", ["0.txt", "0.png"])
@pytest.mark.parametrize("gone", [False, True])
def test_what_something_else_changes_meanwhile_stays(folder, name, gone):
    """A work may take an hour; who mends a caption by hand in it must not lose that."""
    path = folder / name

    def put(draft):
        draft.put(folder / "1.txt", b"made")
        draft.remove(path) if gone else draft.put(path, LARGE if name == "0.png" else b"made")

    with pytest.raises(Mistake, match="was changed since"):
        meanwhile(folder, put, lambda: path.write_bytes(b"by hand"))
    assert path.read_bytes() == b"by hand"
    assert (folder / "1.txt").read_bytes() == b"old 1"
    with pytest.raises(Mistake, match="was changed since"):
        meanwhile(folder, lambda draft: draft.put(folder / "new.txt", b"made"),
                  lambda: (folder / "new.txt").write_bytes(b"by hand"))  # fmt: skip
    assert (folder / "new.txt").read_bytes() == b"by hand"
    assert not Journal(folder).changes()


def test_nothing_leaves_the_folder(folder, tmp_path):
    """Not by .. in a name, not through a folder that is a link, be links followed or not."""
    (tmp_path / "out").mkdir()
    (folder / "_aside").symlink_to(tmp_path / "out")
    for links, path in ((False, folder / "a." / ".." / ".." / "evil.txt"),
                        (True, folder / "a." / ".." / ".." / "evil.txt")):  # fmt: skip
        with pytest.raises(Mistake, match="lies outside"), Journal(folder, links=links).change("x") as draft:
            draft.put(path, b"evil")
    with pytest.raises(Mistake, match="a link to outside"):
        moved(folder, {"0.txt": "_aside/0.txt"})
    assert (folder / "0.txt").exists()
    assert not (tmp_path / "evil.txt").exists()
    assert not any((tmp_path / "out").iterdir())


def test_originals_of_pictures_outlast_many_small_changes(folder, monkeypatch):
    monkeypatch.setattr(journals, "KEPT", 3)
    before = seen(folder)
    overwritten(folder, [folder / "0.txt"])
    with Journal(folder).change("crop") as draft:
        draft.put(folder / "0.png", b"small")
    for i in range(6):
        with Journal(folder).change(f"text {i}") as draft:
            draft.put(folder / "1.txt", b"%d" % i)
    titles = [change.title for change in Journal(folder).changes()]
    assert titles == ["crop", "text 3", "text 4", "text 5"]
    for _ in titles:
        Journal(folder).undo()
    assert seen(folder)["0.png"] == before["0.png"]


def test_a_look_waits_for_nobody_who_has_touched_nothing(folder):
    with Journal(folder).change("long") as draft:
        draft.put(folder / "0.txt", b"new")
        assert Journal(folder).recover() == []
        assert draft.home.is_dir()
    assert (folder / "0.txt").read_bytes() == b"new"


def test_what_could_not_be_taken_back_is_not_called_unchanged(folder, monkeypatch):
    before = seen(folder)
    put(folder)
    after, plain = seen(folder), journals.steps.replace

    def full(path, content):
        if path.name == "1.txt":
            raise OSError(28, "No space left on device", str(path))
        plain(path, content)

    monkeypatch.setattr(journals.steps, "replace", full)
    with pytest.raises(Mistake, match="when the folder is opened again"):
        Journal(folder).undo()
    assert seen(folder) not in (before, after)
    monkeypatch.undo()
    assert [change.title for change in Journal(folder).recover()] == ["everything"]
    assert seen(folder) == before


def test_a_list_of_changes_reads_no_steps(folder):
    put(folder)
    record = next((folder / HOME).glob("0*/change.json"))
    whole = record.read_bytes()
    record.write_bytes(whole[:-40])
    (change,) = Journal(folder).changes()
    assert (change.title, change.files) == ("everything", 8)
    with pytest.raises(Mistake, match="cannot be read"):
        Journal(folder).undo()
    record.write_bytes(whole)
    assert Journal(folder).undo().files == 8


def test_long_names(folder):
    path = folder / ("\U0001f600" * 62 + ".txt")
    path.write_bytes(b"old")
    overwritten(folder, [path])
    assert path.read_bytes() == b"new"


def test_what_a_power_cut_has_emptied_comes_back(folder):
    overwritten(folder, [folder / "0.txt", folder / "came.txt"])
    (change,) = Journal(folder).changes()
    change.now(journals.MOVING)  # as far as it had come
    for name in ("0.txt", "came.txt"):
        (folder / name).write_bytes(b"")
    Journal(folder).recover()
    assert (folder / "0.txt").read_bytes() == b"old 0"
    assert not (folder / "came.txt").exists()
