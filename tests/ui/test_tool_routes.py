"""Tools by the routes, with a desk of their own: what there is, what is refused, what comes of it."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from starlette.applications import Starlette
from starlette.testclient import TestClient

from lora_train.run.desk import Desk
from lora_train.tools import TOOLS
from lora_train.tools.tool import Report, Tool
from lora_train.ui.api import PREFIX, Api, attach
from lora_train.ui.gate import Gate
from lora_train.ui.guard import Guard
from tests.tiny import TinyHost

WHERE = "http://testserver"
LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture
def desk(tmp_path):
    desk = Desk(TinyHost(tmp_path), TinyHost(tmp_path).folders)
    desk.folders.loras.mkdir(parents=True)
    yield desk
    desk.close(10)


@pytest.fixture
def client(desk):
    return of(desk)


def of(desk, remote=False):
    app = Starlette()
    attach(app, Api(lambda: desk, lambda: Guard(desk.folders, remote=remote), Gate()))
    return TestClient(app, base_url=WHERE)


@pytest.fixture
def lora(desk):
    draw = torch.Generator().manual_seed(0)
    file = desk.folders.loras / "mine.safetensors"
    up, down = (torch.randn(s, generator=draw) for s in ((1280, 8), (8, 1280)))
    tensors = {f"{LAYER}.lora_up.weight": up, f"{LAYER}.lora_down.weight": down}
    save_file({**tensors, f"{LAYER}.alpha": torch.tensor(8.0)}, file, metadata={"ss_network_dim": "8"})
    return file


def posted(client, path, **body):
    return client.post(f"{PREFIX}{path}", json=body, headers={"Origin": WHERE})


def ended(client):
    end = time.monotonic() + 30
    while (now := client.get(f"{PREFIX}/tools/now").json())["state"] == "working":
        assert time.monotonic() < end
        time.sleep(0.02)
    return now


def test_every_tool_is_offered_with_every_setting(client):
    found = {tool["name"]: tool for tool in client.get(f"{PREFIX}/tools").json()}
    assert found.keys() == TOOLS.keys()
    for tool in found.values():
        assert tool["about"]
        assert all(row["help"] and row["type"] for row in tool["rows"])
        assert any(row["basic"] for row in tool["rows"])
    rows = {row["path"]: row for row in found["resize"]["rows"]}
    assert (rows["model"]["holds"], rows["base"]["holds"]) == ("lora", "checkpoint")
    assert rows["save_to"]["holds"] == "new"
    assert {row["path"]: row["type"] for row in found["metadata"]["rows"]}["set"] == "lines"


def test_a_tool_works_in_its_thread_and_says_what_came_of_it(client, desk, lora):
    look = posted(client, "/tools/resize/look", values={"model": str(lora)}).json()
    assert look["proposed"] == str(lora.with_name("mine-resized.safetensors"))
    assert [line.partition(":")[0] for line in look["complaints"]] == ["save_to"]
    values = {"model": f'"{lora}"', "save_to": look["proposed"], "new_rank": 4}
    look = posted(client, "/tools/resize/look", values=values).json()
    assert look["makes"] == [{"path": values["save_to"], "there": False}]
    assert look["complaints"] == []
    assert look["heads"] == [{
        "name": "mine.safetensors", "said": "SD 1.x", "forms": ["LoRA"], "ranks": [8], "layers": 1,
        "bytes": lora.stat().st_size,
    }]  # fmt: skip
    assert look["comes"] == {"bytes": 4 * 2 * 1280 * 4, "ranks": [4], "most": False}
    assert posted(client, "/tools/resize", values=values).json()["name"] == "resize"
    now = ended(client)
    assert (now["state"], now["error"], now["files"]) == ("done", None, [values["save_to"]])
    assert now["lines"]
    assert now["facts"]
    assert load_file(values["save_to"])[f"{LAYER}.lora_down.weight"].shape == (4, 1280)
    brief = client.get(f"{PREFIX}/status").json()["tool"]
    assert (brief["id"], brief["name"], brief["state"]) == (now["id"], "resize", "done")
    again = posted(client, "/tools/resize/look", values=values).json()
    assert again["makes"][0]["there"] is True
    assert again["proposed"].endswith("mine-resized-2.safetensors")
    posted(client, "/tools/resize", values=values)
    now = ended(client)
    assert now["state"] == "failed"
    assert "is there already" in now["error"]


def test_a_file_is_inspected_while_a_run_is_on_and_merged_only_after_it(client, desk, lora):
    with desk.line.machine:
        assert posted(client, "/tools/inspect", values={"model": str(lora)}).status_code == 200
        now = ended(client)
        assert (now["state"], now["error"]) == ("done", None)
        assert now["facts"]["blocks"]
        assert now["facts"]["metadata"] == {"ss_network_dim": "8"}
        values = {"model": str(lora), "save_to": str(lora.with_name("b.safetensors"))}
        refused = posted(client, "/tools/resize", values=values)
        assert refused.status_code == 422
        assert "when the run has ended" in refused.json()["error"]
    assert posted(client, "/tools/resize", values=values).status_code == 200
    assert ended(client)["state"] == "done"
    assert desk.line.machine.acquire(blocking=False)  # it is given back
    desk.line.machine.release()


class Slow(Tool):
    """Goes on until it is stopped."""

    about = "slow"
    going = threading.Event()

    def run(self, told):
        for n in range(10**6):
            told(n, 10**6)
            self.going.set()
            time.sleep(0.001)
        return Report(())


def test_one_at_a_time_and_a_stop(client, desk, lora, monkeypatch):
    monkeypatch.setitem(TOOLS, "slow", Slow)
    assert posted(client, "/tools/slow", values={}).status_code == 200
    Slow.going.wait(10)
    refused = posted(client, "/tools/inspect", values={"model": str(lora)})
    assert (refused.status_code, refused.json()["error"]) == (
        422,
        "slow is at work; wait for it, or stop it",
    )
    posted(client, "/tools/stop")
    assert ended(client)["state"] == "stopped"
    assert posted(client, "/tools/inspect", values={"model": str(lora)}).status_code == 200
    ended(client)


def test_all_that_is_wrong_is_said_before_anything_is_read(client, lora):
    wrong = {"model": str(lora), "new_rank": 0, "dynamic_method": "sv", "colour": 1}
    said = posted(client, "/tools/resize", values=wrong).json()["error"].splitlines()
    assert {line.split(" = ")[0].split(":")[0] for line in said} == {"new_rank", "dynamic_method", "colour"}
    assert posted(client, "/tools/nothing", values={}).status_code == 404
    assert posted(client, "/tools/resize", values=3).status_code == 422
    assert client.get(f"{PREFIX}/tools/now").json() is None


def test_a_damaged_file_is_refused_in_a_sentence(client, desk):
    bad = desk.folders.loras / "bad.safetensors"
    bad.write_bytes(b"\xff" * 64)
    posted(client, "/tools/inspect", values={"model": str(bad)})
    now = ended(client)
    assert now["state"] == "failed"
    assert now["error"].startswith(str(bad))
    assert "fault of lora-train" not in now["error"]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("inspect", {"model": "/etc/passwd"}),
        ("inspect", {"model": "{lora}", "picture": "/tmp/a.png"}),
        ("resize", {"model": "{lora}:0.5,/etc/passwd:0.5", "save_to": "{loras}/new.safetensors"}),
        ("resize", {"model": "{lora}", "save_to": "/tmp/new.safetensors"}),
        ("merge", {"models": ["{lora}", "/etc/passwd"], "save_to": "{loras}/new.safetensors"}),
        ("metadata", {"model": "{models}/a.safetensors", "set": ["a=b"], "overwrite": True}),
        ("card", {"model": "{models}/a.safetensors", "description": "b"}),
        ("metadata", {"model": "{lora}", "cover": "/etc/passwd", "overwrite": True}),
    ],
)
def test_from_another_machine_only_allowed_folders_are_read_and_written(desk, lora, tmp_path, name, values):
    import dataclasses

    models = tmp_path / "models"
    models.mkdir()
    (models / "a.safetensors").write_bytes(lora.read_bytes())
    desk.folders = dataclasses.replace(desk.folders, models=(models,))
    words = {"lora": lora, "loras": lora.parent, "models": models}
    filled = {
        path: [text.format(**words) for text in value] if isinstance(value, list) else value.format(**words)
        if isinstance(value, str) else value
        for path, value in values.items()
    }  # fmt: skip
    client = of(desk, remote=True)
    for path in (f"/tools/{name}", f"/tools/{name}/look"):
        answer = posted(client, path, values=filled)
        text = "\n".join(answer.json().get("complaints") or [answer.json().get("error", "")])
        assert "because this page can be reached from other machines" in text, (path, answer.json())
    allowed = {"model": str(models / "a.safetensors")}
    assert posted(client, "/tools/inspect", values=allowed).status_code == 200
    ended(client)


def test_the_files_to_choose_from(client, desk, lora, tmp_path):
    deep = lora.parent / "deep" / "er"
    deep.mkdir(parents=True)
    (deep / "other.safetensors").write_bytes(b"")
    (lora.parent / "notes.txt").write_text("x")
    (deep / "round").symlink_to(lora.parent, target_is_directory=True)
    found = client.get(f"{PREFIX}/tools/files").json()
    assert {row["name"] for row in found["lora"]} == {"mine.safetensors", "other.safetensors"}
    assert len(found["lora"]) == 2
    assert found["checkpoint"] == []
