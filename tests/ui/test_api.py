"""The routes: what the desk says goes out as JSON, and what may not be asked is refused in a sentence."""

import asyncio
import base64
import json
import types

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from starlette.applications import Starlette
from starlette.testclient import TestClient

from lora_train.errors import Mistake
from lora_train.ui.api import LARGEST, PREFIX, Api, attach
from lora_train.ui.gate import Gate
from lora_train.ui.guard import Guard

WHERE = "http://testserver"


class Desk:
    """Says back what it was asked."""

    def __init__(self):
        self.asked, self.step = [], 0

    def __getattr__(self, name):
        def method(*given):
            self.asked.append((name, *given))
            return {"asked": name}

        return method

    def status(self, after):
        self.step += 1
        return {"now": self.step, "run": {"points": [[self.step, float("nan"), 0.5, 1e-4]]}, "queue": []}

    def act(self, id, what):
        if id != "1":
            raise LookupError(f"{id}: no such job")
        return {"id": id, "what": what}

    def measure(self, values):
        raise Mistake("training.learning_rate = 9: expected 0 to 1")

    def trigger(self, text):
        raise RuntimeError("a fault")


@pytest.fixture
def folders(tmp_path):
    found = types.SimpleNamespace(
        loras=tmp_path / "loras", desk=tmp_path / "desk", models=(tmp_path / "models",), pictures=()
    )
    for folder in (found.loras, found.desk, *found.models):
        folder.mkdir()
    return found


@pytest.fixture
def made(folders):
    """made(gate, remote) -> (client, desk)."""

    def made(gate=None, remote=False, **more):
        desk = Desk()
        app = Starlette()
        attach(app, Api(lambda: desk, lambda: Guard(folders, remote), gate or Gate(), **more))
        return TestClient(app, base_url=WHERE, raise_server_exceptions=False), desk

    return made


def basic(name, password):
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def test_every_route_asks_the_desk_for_one_thing(made):
    client, desk = made()
    values = {"values": {"network.dim": 8}}
    asked = [
        ("GET", "/settings", None, ("settings",)),
        ("GET", "/model", None, ("model",)),
        ("GET", "/goals", None, ("goals",)),
        ("GET", "/presets", None, ("presets",)),
        (
            "GET",
            "/presets/mine?goal=style&family=sd1&pictures=20",
            None,
            ("preset", "mine", "style", "sd1", 20),
        ),
        ("PUT", "/presets/mine", values, ("put_preset", "mine", {"network.dim": 8})),
        ("DELETE", "/presets/mine", None, ("remove_preset", "mine")),
        ("GET", "/block_presets", None, ("block_presets",)),
        ("PUT", "/block_presets/mine", {"text": "1,0"}, ("put_block_preset", "mine", "1,0")),
        ("DELETE", "/block_presets/mine", None, ("remove_block_preset", "mine")),
        ("POST", "/look", values, ("look", {"network.dim": 8})),
        ("GET", "/queue", None, ("queue",)),
        ("POST", "/queue", {**values, "name": "a", "start": True}, ("add", {"network.dim": 8}, "a", True)),
        ("PUT", "/queue/1", values, ("edit", "1", {"network.dim": 8})),
        ("POST", "/run/pause", None, ("pause",)),
        ("POST", "/run/go_on", None, ("go_on",)),
        ("POST", "/run/stop", {"save": False}, ("stop", False)),
        ("POST", "/run/stop", None, ("stop", True)),
        ("POST", "/run/save", None, ("save_now",)),
        ("POST", "/run/sample", None, ("sample_now",)),
        ("GET", "/runs", None, ("runs",)),
        ("GET", "/runs/okara", None, ("run", "okara")),
        ("GET", "/runs/okara/insight", None, ("insight", "okara")),
        ("GET", "/runs/compare", None, ("run", "compare")),
        ("GET", "/compare?names=okara/a%2C%20b", None, ("compare", ["okara", "a, b"])),
        ("DELETE", "/runs/okara?what=caches", None, ("clear", "okara", "caches")),
        ("GET", "/tools", None, ("tools",)),
        ("GET", "/tools/now", None, ("tool_now",)),
        ("GET", "/tools/files", None, ("tool_files",)),
        ("POST", "/tools/stop", None, ("stop_tool",)),
    ]
    for method, path, body, expected in asked:
        answer = client.request(method, PREFIX + path, json=body)
        assert answer.status_code == 200, (path, answer.text)
        assert desk.asked[-1] == expected
    client.post(f"{PREFIX}/import?name=a.json", content=b"{}")
    assert desk.asked[-1] == ("imported", "a.json", b"{}")


def test_a_mistake_is_its_sentence_and_a_fault_is_none_of_ours_to_show(made):
    client, _ = made()
    answer = client.post(f"{PREFIX}/measure", json={"values": {}})
    assert (answer.status_code, answer.json()) == (
        422,
        {"error": "training.learning_rate = 9: expected 0 to 1"},
    )
    assert client.post(f"{PREFIX}/queue/7/up").status_code == 404
    assert client.get(f"{PREFIX}/nothing").json() == {"error": f"{PREFIX}/nothing: no such route"}
    fault = client.get(f"{PREFIX}/trigger")
    assert fault.status_code == 500
    assert "a fault of lora-train" in fault.json()["error"]
    assert "Traceback" not in fault.text


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"values": 3}', b"[" * 100_000, b"\xff"])
def test_a_body_that_is_no_job_is_a_sentence(made, body):
    client, desk = made()
    answer = client.post(f"{PREFIX}/look", content=body)
    assert answer.status_code == 422
    assert "expected" in answer.json()["error"]
    assert not desk.asked


def test_a_body_without_end_is_not_read(made):
    client, desk = made()
    answer = client.post(f"{PREFIX}/import?name=a.toml", content=b"x" * (LARGEST + 1))
    assert answer.status_code == 413
    assert not desk.asked


def test_what_is_no_number_reaches_the_browser_as_null(made):
    client, _ = made()
    assert json.loads(client.get(f"{PREFIX}/status").text)["run"]["points"] == [[1, None, 0.5, 1e-4]]


def test_the_stream_tells_what_changed_and_ends_with_the_server(made):
    left = [False, False, True]
    client, _ = made(closing=lambda: left.pop(0) if left else True)
    stream = client.get(f"{PREFIX}/events?after=0")
    lines = [line for line in stream.text.splitlines() if line]
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert [line for line in lines if line.startswith("id:")] == ["id: 1", "id: 2"]
    assert json.loads([line for line in lines if line.startswith("data:")][-1][5:])["now"] == 2
    assert lines[-1] == "retry: 15000"  # so long pages wait for a server that starts anew


# ── who may ask ─────────────────────────────────────────────────────────────────────────────────────────────


def test_another_site_cannot_write_and_scripts_can(made):
    client, desk = made()
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Referer": "http://evil.example/testserver"},
        {"Origin": WHERE, "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://testserver:99"},
    ):
        answer = client.post(f"{PREFIX}/run/pause", headers=headers)
        assert answer.status_code == 403, headers
        assert "another site" in answer.json()["error"]
    assert not desk.asked
    for headers in (
        {},
        {"Origin": WHERE},
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://a.gradio.live"},
    ):
        assert client.post(f"{PREFIX}/run/pause", headers=headers).status_code == 200, headers


def test_a_site_that_the_person_allowed_may_write(made):
    client, _ = made(Gate(origins=("http://other.example",)))
    headers = {"Origin": "http://other.example", "Sec-Fetch-Site": "cross-site"}
    assert client.post(f"{PREFIX}/run/pause", headers=headers).status_code == 200


def test_with_a_login_only_those_who_are_logged_in_ask(made):
    client, _ = made(Gate(login=lambda request: request.cookies.get("who") == "me"))
    assert client.get(f"{PREFIX}/model").status_code == 401
    assert client.get(f"{PREFIX}/events").status_code == 401
    assert client.get(f"{PREFIX}/file?path=x").status_code == 401
    assert client.get(f"{PREFIX}/model", headers={"Cookie": "who=me"}).status_code == 200


def test_basic_authentication_is_taken_in_place_of_the_login(made):
    client, _ = made(Gate(login=lambda request: False, users={"ann": "pä:ss"}))
    assert client.get(f"{PREFIX}/model", headers=basic("ann", "wrong")).status_code == 401
    assert client.get(f"{PREFIX}/model", headers=basic("eve", "pä:ss")).status_code == 401
    assert client.get(f"{PREFIX}/model", headers={"Authorization": "Basic #"}).status_code == 401
    crossing = {**basic("ann", "pä:ss"), "Origin": "http://evil.example"}
    assert client.post(f"{PREFIX}/run/pause", headers=crossing).status_code == 200


def test_with_api_auth_alone_the_page_asks_with_its_key(made):
    gate = Gate(users={"ann": "secret"})
    client, _ = made(gate)
    assert client.get(f"{PREFIX}/model").status_code == 401
    assert client.get(f"{PREFIX}/model", headers={"Cookie": gate.key}).status_code == 200
    assert client.get(f"{PREFIX}/model", headers={"Cookie": gate.key + "x"}).status_code == 401
    crossing = {"Cookie": gate.key, "Origin": "http://evil.example"}
    assert client.post(f"{PREFIX}/run/pause", headers=crossing).status_code == 403
    assert Gate().key is None


# ── which paths ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "setting",
    ["data.train_data_dir", "output.output_dir", "data.datasets.0.subsets.2.image_dir", "network.weights",
     "model.pretrained_model_name_or_path", "output.sample_prompts", "output.card.thumbnail", "place.resume"],
)  # fmt: skip
def test_from_other_machines_no_setting_reaches_outside(made, folders, tmp_path, setting):
    client, desk = made(remote=True)
    (folders.desk / "link").symlink_to(tmp_path)
    for path in (
        "/etc",
        str(tmp_path),
        f"{folders.desk}/../x",
        f"{folders.desk}/link/x",
        f'"{tmp_path}"',
        "rel",
    ):
        for method, route in (
            ("POST", "/queue"),
            ("POST", "/look"),
            ("PUT", "/presets/a"),
            ("PUT", "/queue/1"),
        ):
            answer = client.request(method, PREFIX + route, json={"values": {setting: path}})
            assert answer.status_code == 422, (path, route)
            assert answer.json()["error"].startswith(f"{setting} = ")
    assert not desk.asked
    inside = str(folders.desk / "pictures")
    assert client.post(f"{PREFIX}/look", json={"values": {setting: inside}}).status_code == 200


def test_from_other_machines_nothing_is_written_among_models_and_pictures(made, folders):
    client, _ = made(remote=True)
    for setting in ("output.output_dir", "output.logging_dir"):
        answer = client.post(f"{PREFIX}/look", json={"values": {setting: str(folders.models[0])}})
        assert answer.status_code == 422
        answer = client.post(f"{PREFIX}/look", json={"values": {setting: str(folders.loras)}})
        assert answer.status_code == 200


def test_a_checkpoint_may_be_a_link_to_another_disk(made, folders, tmp_path):
    (tmp_path / "big.safetensors").touch()
    (folders.models[0] / "big.safetensors").symlink_to(tmp_path / "big.safetensors")
    client, _ = made(remote=True)
    model, name = str(folders.models[0]), "model.pretrained_model_name_or_path"
    for path, status in (
        ("big.safetensors", 200),
        ("../big.safetensors", 422),
        ("../models/big.safetensors", 422),
    ):
        answer = client.post(f"{PREFIX}/look", json={"values": {name: f"{model}/{path}"}})
        assert answer.status_code == status, path


def test_at_home_a_pasted_path_loses_its_quotes(made):
    client, desk = made()
    client.post(f"{PREFIX}/look", json={"values": {"data.train_data_dir": ' "C:\\lora\\my dogs" '}})
    assert desk.asked[-1] == ("look", {"data.train_data_dir": "C:\\lora\\my dogs"})


def test_browsing_goes_down_and_not_out(made, folders, tmp_path):
    inner = folders.desk / "cats"
    inner.mkdir()
    for name in ("a.png", "b.JPG", "c.txt"):
        (inner / name).touch()
    client, _ = made(remote=True)
    begin = client.get(f"{PREFIX}/folders").json()
    assert str(folders.desk) in begin["folders"]
    found = client.get(f"{PREFIX}/folders", params={"path": str(folders.desk)}).json()
    assert found == {"path": str(folders.desk), "parent": "", "folders": [str(inner)], "pictures": 0}
    assert client.get(f"{PREFIX}/folders", params={"path": str(inner)}).json()["pictures"] == 2
    assert client.get(f"{PREFIX}/folders", params={"path": str(tmp_path)}).status_code == 422
    home, _ = made()
    assert home.get(f"{PREFIX}/folders", params={"path": str(tmp_path)}).json()["parent"] == str(
        tmp_path.parent
    )
    for path in (tmp_path / "none", inner / "a.png", "\0"):
        assert "expected" in home.get(f"{PREFIX}/folders", params={"path": str(path)}).json()["error"]


def test_folders_open_only_at_home(made, folders, monkeypatch):
    opened = []
    monkeypatch.setattr("lora_train.ui.guard.subprocess.Popen", lambda words, **_: opened.append(words[1]))
    monkeypatch.setattr("lora_train.ui.guard.shutil.which", lambda name: f"/bin/{name}")
    monkeypatch.setattr("lora_train.ui.guard.sys.platform", "linux")
    client, _ = made()
    assert (
        client.post(f"{PREFIX}/open", json={"path": str(folders.loras / "a.safetensors")}).status_code == 200
    )
    assert opened == [str(folders.loras)]
    assert client.post(f"{PREFIX}/open", json={"path": str(folders.loras / "x" / "y")}).status_code == 422
    far, _ = made(remote=True)
    assert far.post(f"{PREFIX}/open", json={"path": str(folders.loras)}).status_code == 422


def test_only_pictures_of_allowed_folders_are_handed_out(made, folders, tmp_path):
    (tmp_path / "out.png").write_bytes(b"png")
    (folders.loras / "in.png").write_bytes(b"png")
    (folders.loras / "in.json").write_bytes(b"{}")
    (folders.loras / "link.png").symlink_to(tmp_path / "out.png")
    client, _ = made(remote=True)
    assert client.get(f"{PREFIX}/file", params={"path": str(folders.loras / "in.png")}).content == b"png"
    for path in (
        tmp_path / "out.png",
        folders.loras / "link.png",
        folders.loras / "in.json",
        folders.loras / "x.png",
    ):
        assert client.get(f"{PREFIX}/file", params={"path": str(path)}).status_code == 422


@pytest.mark.parametrize("name", ["..", "a%2Fb", "a%5Cb", "C:x", " a", "a."])
def test_names_of_presets_and_runs_stay_names(made, name):
    client, desk = made()
    answer = client.get(f"{PREFIX}/runs/{name}")
    assert answer.status_code in (404, 422)
    assert not desk.asked


def test_a_page_that_is_left_while_it_asks_is_no_fault(made):
    """A reload breaks off what a click has just sent."""
    client, desk = made()
    scope = {
        "type": "http", "method": "POST", "path": f"{PREFIX}/run/pause", "query_string": b"", "headers": [
            (b"host", b"testserver"), (b"content-type", b"application/json")],
    }  # fmt: skip
    sent = []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    asyncio.run(client.app(scope, receive, send))
    assert sent[0]["status"] == 400
    assert not desk.asked


def test_a_picture_is_handed_out_small_where_it_is_asked_for(made, folders):
    import io

    from PIL import Image

    client, _ = made()
    path = folders.loras / "large.png"
    Image.new("RGBA", (9000, 3000), (255, 0, 0, 0)).save(path)
    whole = client.get(f"{PREFIX}/file", params={"path": str(path)})
    assert whole.content == path.read_bytes()
    answer = client.get(f"{PREFIX}/file", params={"path": str(path), "width": "160"})
    assert answer.headers["content-type"] == "image/jpeg"
    picture = Image.open(io.BytesIO(answer.content))
    assert picture.size == (160, 53)
    assert min(picture.getpixel((5, 5))) > 250  # nothing is white
    most = client.get(f"{PREFIX}/file", params={"path": str(path), "width": "99999999999"})
    assert Image.open(io.BytesIO(most.content)).width == 2048
    path.write_bytes(b"no picture")
    refused = client.get(f"{PREFIX}/file", params={"path": str(path), "width": "160"})
    assert (refused.status_code, "expected a picture" in refused.json()["error"]) == (422, True)
