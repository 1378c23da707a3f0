"""The room Dataset by its routes, over a real folder."""

from __future__ import annotations

import dataclasses
import io
import os
import time

import pytest
from PIL import Image

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from lora_train.data import memory
from lora_train.run import small, workroom
from lora_train.workshop import WORKS, opened
from lora_train.workshop.journal import Journal
from tests.ui.test_tool_routes import client, desk, of, posted  # noqa: F401 (fixtures)

SIZES = ((640, 480), (512, 512), (300, 900))


@pytest.fixture(autouse=True)
def own(monkeypatch, tmp_path):
    """Nothing of another test is remembered."""
    for module in (memory, small, opened):
        monkeypatch.setattr(module, "usual", lambda: tmp_path / "cache" / "pictures.sqlite")
    monkeypatch.setattr(opened, "_shelf", {})


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "my pictures é"
    home.mkdir()
    for i, size in enumerate(SIZES):
        Image.new("RGB", size, (40 * i, 90, 120)).save(home / f"picture {i}.png")
    (home / "picture 0.txt").write_text("okara, red hat, smile", encoding="utf-8")
    (home / "picture 1.txt").write_text("okara, blue hat", encoding="utf-8")
    (home / "notes.md").write_text("mine", encoding="utf-8")
    return home


def asked(client, path, folder, **body):  # noqa: F811
    where = {"folder": str(folder), **body.pop("where", {})}
    answer = posted(client, f"/dataset/{path}", where=where, **body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def worked(client, name, folder, **values):  # noqa: F811
    answer = posted(client, f"/dataset/works/{name}", values={"folder": str(folder), **values})
    assert answer.status_code == 200, answer.text
    end = time.monotonic() + 30
    while (now := client.get("/lora_train/v1/dataset/now").json())["state"] == "working":
        assert time.monotonic() < end
        time.sleep(0.02)
    assert now["state"] == "done", now
    return now


def test_a_folder_is_opened_and_paged(client, folder):  # noqa: F811
    found = asked(client, "open", folder)
    assert (found["pictures"], found["captioned"], found["undo"], found["redo"]) == (3, 2, None, None)
    page = asked(client, "items", folder, **{"from": 1, "count": 1})
    assert page["total"] == 3
    row = page["items"][0]
    assert (row["name"], row["size"], row["caption"]) == ("picture 1.png", [512, 512], "okara, blue hat")
    assert asked(client, "tags", folder)["tags"][0] == ["okara", 2]
    names = asked(client, "names", folder, where={"only": '"red hat"'})["names"]
    assert names == ["picture 0.png"]
    assert asked(client, "names", folder, sort="smallest")["names"][0] == "picture 1.png"


def test_one_picture_as_a_run_sees_it(client, folder):  # noqa: F811
    values = {"data.enable_bucket": True, "data.resolution": "512", "data.trigger_word": "ohwx", "data.x": 1}
    found = asked(client, "item", folder, name="picture 0.png", values=values)
    assert found["read"] == "ohwx, okara, red hat, smile"
    assert found["tags"] == ["okara", "red hat", "smile"]
    fit = found["fit"]
    width, height = (c * r / s for c, r, s in zip(fit["crop"][2:], fit["resized"], SIZES[0], strict=True))
    assert [round(width), round(height)] == fit["bucket"]
    left, top = fit["crop"][:2]
    assert left + fit["crop"][2] / 2 == pytest.approx(320, abs=1)
    assert top + fit["crop"][3] / 2 == pytest.approx(240, abs=1)


def test_a_change_is_foreseen_done_and_undone(client, folder):  # noqa: F811
    asked(client, "open", folder)
    values = {"folder": str(folder), "add": "cat", "only": "is:captioned"}
    look = posted(client, "/dataset/works/captions/look", values=values).json()
    assert (look["complaints"], look["of"], look["count"]) == ([], 2, 2)
    assert look["examples"][0]["before"] == "okara, red hat, smile"
    before = (folder / "picture 0.txt").read_bytes()
    worked(client, "captions", folder, add="cat", only="is:captioned")
    assert "cat" in (folder / "picture 0.txt").read_text(encoding="utf-8")
    state = asked(client, "open", folder)
    assert state["undo"]
    assert asked(client, "items", folder)["items"][0]["caption"].endswith("cat")
    assert asked(client, "undo", folder)["redo"] == state["undo"]
    assert (folder / "picture 0.txt").read_bytes() == before
    assert "cat" not in asked(client, "items", folder)["items"][0]["caption"]
    asked(client, "redo", folder)
    assert "cat" in (folder / "picture 0.txt").read_text(encoding="utf-8")
    assert [c["done"] for c in asked(client, "history", folder)] == [True]


def test_masks_are_no_pictures_of_their_own(client, folder):  # noqa: F811
    Image.new("L", SIZES[0]).save(folder / "picture 0-masklabel.png")
    Image.new("L", SIZES[0]).save(folder / "alone-masklabel.png")
    assert asked(client, "open", folder)["pictures"] == 4
    names = asked(client, "names", folder)["names"]
    assert "picture 0-masklabel.png" not in names
    assert "alone-masklabel.png" in names


def test_small_copies_are_kept(client, folder):  # noqa: F811
    path = folder / "picture 2.png"
    for _ in range(2):
        answer = client.get("/lora_train/v1/file", params={"path": str(path), "width": "256"})
        assert Image.open(io.BytesIO(answer.content)).size == (85, 256)
    small._held.cache_clear()
    kept = [*(memory.usual().parent / "small").rglob("*.jpg")]
    assert kept
    Image.new("RGB", (100, 100)).save(path)
    answer = client.get("/lora_train/v1/file", params={"path": str(path), "width": "256"})
    assert Image.open(io.BytesIO(answer.content)).size == (100, 100)


def test_copies_are_made_ahead(folder):
    made, ahead = [], small.Ahead(busy=lambda: False)
    ahead.make([folder / f"picture {i}.png" for i in range(3)], 256)
    while ahead.thread:
        time.sleep(0.01)
    made = [*(memory.usual().parent / "small").rglob("*.jpg")]
    assert len(made) == 3


def test_what_a_stranger_may(desk, folder):  # noqa: F811
    """Over the net only folders that the owner allows are opened."""
    far = of(desk, remote=True)
    answer = posted(far, "/dataset/open", where={"folder": str(folder)})
    assert answer.status_code == 422
    assert "expected a path below" in answer.text
    answer = posted(far, "/dataset/works/undo", values={"folder": str(folder)})
    assert answer.status_code == 422
    mine = desk.folders.desk / "pictures"
    mine.mkdir(parents=True)
    (mine / "linked.png").symlink_to(folder / "picture 0.png")
    desk.folders = dataclasses.replace(desk.folders, pictures=(mine,))
    far, where = of(desk, remote=True), {"folder": str(mine), "recursive": True}
    assert asked(far, "open", mine)["outside"] == 1
    for path in ("items", "works/captions"):
        values = {"where" if path == "items" else "values": {**where, "follow_links": True}}
        answer = posted(far, f"/dataset/{path}", **values)
        assert answer.status_code == 422
        assert "follow_links = True: expected false" in answer.text


@pytest.mark.parametrize("path", ["items", "names", "open", "tags", "undo"])
def test_no_such_folder(client, tmp_path, path):  # noqa: F811
    answer = posted(client, f"/dataset/{path}", where={"folder": str(tmp_path / "none")})
    assert answer.status_code == 422, answer.text
    assert "none" in answer.text


def test_every_work_has_a_form(client):  # noqa: F811
    found = {row["name"]: row for row in client.get("/lora_train/v1/dataset/works").json()}
    assert found.keys() == WORKS.keys()
    assert all(row["about"] for row in found.values())
    assert workroom.SORTS


@pytest.mark.parametrize("values", [{"model.max_token_length": "many"}, {"data.resolution": []}])
def test_odd_settings_hide_no_picture(client, folder, values):  # noqa: F811
    assert asked(client, "items", folder, values=values)["total"] == 3
    assert asked(client, "item", folder, values=values, name="picture 0.png")["limit"] == 75
    answer = posted(client, "/dataset/items", where={"folder": str(folder)}, values=[1])
    assert answer.status_code == 422


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_name_that_is_no_text_hides_no_others(client, folder):  # noqa: F811
    (folder / os.fsdecode(b"\xff.png")).write_bytes((folder / "picture 0.png").read_bytes())
    assert len(asked(client, "items", folder)["items"]) == 4


def test_a_folder_is_opened_while_a_work_is_on(client, folder):  # noqa: F811
    """As in a second window, or after a reload of the page."""
    with Journal(folder).change("tags") as draft:
        draft.put(folder / "picture 0.txt", b"new")
        assert asked(client, "open", folder)["recovered"] == []
    assert (folder / "picture 0.txt").read_bytes() == b"new"


def test_a_picture_that_goes_while_it_is_asked_for(client, folder, monkeypatch):  # noqa: F811
    def gone(path, width):
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr(small, "small", gone)
    answer = client.get("/lora_train/v1/file", params={"path": str(folder / "picture 0.png"), "width": "64"})
    assert answer.status_code == 422
    assert "picture 0.png" in answer.json()["error"]
