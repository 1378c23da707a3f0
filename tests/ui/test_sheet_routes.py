"""Sheets by the routes, with a desk of its own: planned, looked at, drawn, and read again."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from starlette.applications import Starlette
from starlette.testclient import TestClient

from lora_train.run.desk import Desk
from lora_train.ui.api import PREFIX, Api, attach
from lora_train.ui.gate import Gate
from lora_train.ui.guard import Guard
from tests.plots.conftest import files  # noqa: F401 (a fixture)
from tests.tiny import TinyHost

WHERE = "http://testserver"


@pytest.fixture
def desk(tmp_path):
    desk = Desk(TinyHost(tmp_path), TinyHost(tmp_path).folders)
    yield desk
    desk.close(10)


@pytest.fixture
def client(desk, tmp_path):
    app = Starlette()
    attach(app, Api(lambda: desk, lambda: Guard(desk.folders), Gate()))
    return TestClient(app, base_url=WHERE)


def posted(client, path, **body):
    return client.post(f"{PREFIX}{path}", json=body, headers={"Origin": WHERE})


def planned(folder, **more) -> dict:
    return {
        "network_weights": [str(folder)], "prompt": "a cat", "width": 64, "height": 64, "x": "strength: 0, 1",
        "y": "file", **more,
    }  # fmt: skip


def test_a_sheet_is_planned_drawn_and_read(client, desk, files):  # noqa: F811
    look = posted(client, "/sheets/mine/look", values=planned(files)).json()
    assert (look["cells"], look["pictures"], look["runs"], look["complaints"]) == (4, 3, 0, [])
    assert [axis["labels"] for axis in look["axes"]] == [["strength 0", "strength 1"], ["one", "two"]]
    begun = posted(client, "/sheets/mine", values=planned(files)).json()
    assert (begun["name"], begun["state"]) == ("mine", "drawing")
    end = time.monotonic() + 30
    while (sheet := client.get(f"{PREFIX}/status").json()["sheet"])["state"] == "drawing":
        assert time.monotonic() < end
        time.sleep(0.02)
    assert (sheet["state"], sheet["error"], sheet["done"]) == ("done", None, 3)
    found = client.get(f"{PREFIX}/sheets/mine").json()
    assert [cell["values"]["file"] for cell in found["cells"]] == ["one", "one", "two", "two"]
    for url in (found["cells"][0]["url"], found["sheet_urls"][0], sheet["url"]):
        assert client.get(url).headers["content-type"] == "image/png"
    assert {cell["base_url"] for cell in found["cells"]} == {found["cells"][0]["url"]}  # that at strength 0
    assert found["asked"]["values"] == planned(files)
    (row,) = client.get(f"{PREFIX}/sheets").json()
    assert (row["name"], row["state"]) == ("mine", "done")
    assert posted(client, "/sheets/mine/look", values=planned(files)).json()["seconds"] > 0


def test_what_is_wrong_is_said_before_anything_is_drawn(client, desk, files):  # noqa: F811
    wrong = planned(files, x="strength: a", z="colour: 1")
    said = posted(client, "/sheets/mine/look", values=wrong).json()["complaints"]
    assert [line.partition(" ")[0] for line in said] == ["colour:", "strength"]
    answer = posted(client, "/sheets/mine", values=wrong)
    assert (answer.status_code, answer.json()["error"].splitlines()) == (422, said)
    assert not (desk.folders.desk / "sheets").exists()
    assert client.get(f"{PREFIX}/sheets/mine").status_code == 404


def test_settings_of_a_run_that_are_wrong_hold_nothing_up(client, files):  # noqa: F811
    said = "network.dim = abc: expected a whole number"
    look = posted(client, "/sheets/mine/look", values=planned(files), job={"network.dim": "abc"})
    assert look.json()["complaints"] == [said]
    answer = posted(client, "/sheets/mine", values=planned(files), job={"network.dim": "abc"})
    assert (answer.status_code, answer.json()["error"]) == (422, said)
    assert posted(client, "/sheets/mine", values=planned(files)).status_code == 200


def test_presets_that_the_page_keeps_are_known(client, desk, files):  # noqa: F811
    below = files / "below"
    below.mkdir()
    (files / "one.safetensors").rename(below / "one.safetensors")
    mine = ",".join(["0.5"] * 12)
    client.put(f"{PREFIX}/block_presets/MINE", json={"text": mine}, headers={"Origin": WHERE})
    for values in ({"block_weights": "MINE"}, {"y": "block_weights: MINE, ALL"}):
        look = posted(client, "/sheets/mine/look", values=planned(below, **values)).json()
        assert look["complaints"] == []


def test_one_that_was_cut_off_is_known_and_gone_on_with(client, desk, files):  # noqa: F811
    posted(client, "/sheets/mine", values=planned(files, prompt="a dog"))
    desk.sheets.thread.join()
    again = Desk(desk.host, desk.folders)  # the program has ended, and before the sheet did
    (again.folders.desk / "sheets" / "mine" / "sheet.json").unlink()
    (row,) = again.drawn_sheets()
    assert (row["name"], row["state"], row["suggestion"]) == ("mine", "stopped", None)
    found = again.drawn_sheet("mine")
    assert (found["state"], found["cells"], found["asked"]["values"]["prompt"]) == ("stopped", [], "a dog")
    asked = found["asked"]
    again.plan_sheet(asked["values"], asked["job"], "mine", asked["run"])
    again.sheets.thread.join()
    assert (again.drawn_sheet("mine")["state"], again.sheets.drawing.course.drawn) == ("done", 0)
    again.close(10)


def test_a_sheet_can_be_deleted_but_not_while_it_is_drawn(client, desk, files):  # noqa: F811
    def gone(name):
        return client.delete(f"{PREFIX}/sheets/{name}", headers={"Origin": WHERE})

    assert gone("mine").status_code == 404
    posted(client, "/sheets/mine", values=planned(files))
    desk.sheets.thread.join()
    before, desk.sheets.now.state = desk.sheets.now, "drawing"
    assert (gone("mine").status_code, gone("mine").json()["error"]) == (
        422, "mine is being drawn; stop it first"
    )  # fmt: skip
    before.state = "done"
    (desk.folders.desk / "sheets" / "other").mkdir()
    (desk.folders.desk / "sheets" / "other" / "a.txt").write_text("a", encoding="utf-8")
    assert gone("other").status_code == 404  # no sheet
    assert gone("..%5C..").status_code in (404, 405, 422)
    assert gone("mine").status_code == 200
    assert [path.name for path in (desk.folders.desk / "sheets").iterdir()] == ["other"]
    assert client.get(f"{PREFIX}/status").json()["sheet"] is None
    assert client.get(f"{PREFIX}/sheets/mine").status_code == 404
    assert (files / "one.safetensors").is_file()


def test_what_a_form_needs(client):
    found = client.get(f"{PREFIX}/axes").json()
    assert {row["path"] for row in found["settings"]} >= {"x", "y", "z", "prompt", "score", "analyze"}
    assert "outdir" not in {row["path"] for row in found["settings"]}
    assert next(axis for axis in found["axes"] if axis["name"] == "strength")["usual"]
    assert (found["runs"], found["files"]) == ([], [])


def test_a_link_to_nothing_is_not_offered(client, desk, files):  # noqa: F811
    (desk.folders.loras / "gone.safetensors").symlink_to(desk.folders.loras / "nowhere")
    found = client.get(f"{PREFIX}/axes").json()["files"]
    assert sorted(found) == [str(files / name) for name in ("one.safetensors", "two.safetensors")]


def test_paths_are_guarded(client, desk, tmp_path):
    app = Starlette()
    attach(app, Api(lambda: desk, lambda: Guard(desk.folders, remote=True), Gate()))
    other = TestClient(app, base_url=WHERE)
    answer = posted(other, "/sheets/mine/look", values=planned(tmp_path / "elsewhere"))
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("network_weights = ")
    secret = "/etc/a.safetensors"
    for x in (f"file: none, {secret}", f"lora: {secret}", f"FILE:{secret}", [f"epoch: {secret}"]):
        answer = posted(other, "/sheets/mine/look", values=planned(tmp_path / "loras", x=x))
        assert answer.json()["error"].startswith("file = "), x
    answer = posted(other, "/sheets/mine/look", values=planned("x"), job={"data.train_data_dir": "/etc"})
    assert answer.status_code == 422


@pytest.mark.parametrize("name", ["../a", "a/b"])
def test_a_name_is_no_path(client, name, files):  # noqa: F811
    assert posted(client, f"/sheets/{name.replace('/', '%2F')}", values=planned(files)).status_code in (
        404,
        405,
        422,
    )
