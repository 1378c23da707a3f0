"""Hugging Face: what is sent there, and what of a run depends on it: nothing."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import pathlib
import sys
import threading
import types

import pytest
from safetensors.torch import load_file

from lora_train.compat import translate
from lora_train.errors import Mistake
from lora_train.job import assemble, declared, written
from lora_train.options import train_parser, train_values
from lora_train.run.hub import fetched

KEY = "hf_" + 30 * "k"
HUB = {"output__hub__repo_id": "me/mine"}


class Api:
    """Stands in for the package's; `down`: how many of its calls fail first."""

    def __init__(self, down: int = 0, why: str = "Bad gateway"):
        self.calls, self.down, self.why, self.threads = [], down, why, set()

    def _called(self, name: str, given: dict) -> None:
        self.threads.add(threading.current_thread())
        if self.down:
            self.down -= 1
            raise ConnectionError(f"{self.why}\nRequest 7")
        self.calls.append((name, given))

    def create_repo(self, repo_id: str, **given: object) -> None:
        self._called("create", {"repo_id": repo_id, **given})

    def upload_file(self, **given: object) -> None:
        assert pathlib.Path(given["path_or_fileobj"]).is_file()
        self._called("file", given)

    def upload_folder(self, **given: object) -> None:
        assert (pathlib.Path(given["folder_path"]) / "state.safetensors").is_file()
        self._called("folder", given)

    def sent(self) -> list[str]:
        return [given["path_in_repo"] for name, given in self.calls if name != "create"]


@pytest.fixture
def api(monkeypatch):
    """api(...): the package, which answers so."""

    def stand_in(**how: object) -> Api:
        made = Api(**how)
        module = types.ModuleType("huggingface_hub")
        module.HfApi = lambda endpoint=None: made
        module.__spec__ = types.SimpleNamespace(name="huggingface_hub")
        monkeypatch.setitem(sys.modules, "huggingface_hub", module)
        return made

    return stand_in


def test_every_saved_file_is_sent(trained, api):
    hub = api()
    trained("a", **HUB, output__save_every_n_steps=3, output__hub__path_in_repo="/tries/one/")
    made = {"repo_id": "me/mine", "repo_type": "model", "private": True, "exist_ok": True}
    assert hub.calls[0] == ("create", made)
    names = ["x-step00000003.safetensors", "x-step00000006.safetensors", "x.safetensors"]
    assert hub.sent() == [f"tries/one/{name}" for name in names]


@pytest.mark.parametrize("asked", [False, True])
def test_states_are_sent_where_they_are_asked_for(trained, api, asked):
    hub = api()
    trained("a", **HUB, output__save_state=True, output__hub__save_state=asked,
            output__hub__repo_visibility="public", output__save_state_every_n_minutes=0)  # fmt: skip
    assert hub.calls[0][1]["private"] is False
    assert hub.sent() == ["x.safetensors", *["x-state"] * asked]


def test_a_run_waits_at_its_end_for_what_is_sent_beside_it(trained, api):
    hub = api()
    trained("a", **HUB, output__save_every_n_steps=3, output__hub__async_upload=True)
    assert len(hub.sent()) == 3
    assert threading.main_thread() in hub.threads  # which made the repository
    assert len(hub.threads) == 2


@pytest.mark.parametrize("beside", [False, True])
def test_what_cannot_be_sent_is_told_of_once_and_tried_again(trained, api, caplog, monkeypatch, beside):
    monkeypatch.setenv("HF_TOKEN", KEY)
    hub = api(down=3, why=f"No such key {KEY}")
    trained("a", **HUB, output__save_every_n_steps=3, output__hub__async_upload=beside)
    assert sorted(hub.sent()) == sorted(
        ["x.safetensors", "x-step00000003.safetensors", "x-step00000006.safetensors"]
    )
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "cannot be sent to me/mine (No such key …). The run goes on" in warnings[0]
    assert KEY not in caplog.text


def test_no_run_ends_for_it(trained, api, caplog):
    api(down=10**6)
    lost = trained("a", **HUB, output__save_every_n_steps=3, output__save_last_n_steps=3)
    kept = trained("b")
    a, b = load_file(lost.file), load_file(kept.file)
    assert all(a[key].equal(b[key]) for key in b)
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 2
    assert warnings[1].startswith("Not sent to Hugging Face: ")
    assert "x.safetensors" in warnings[1]
    assert "x-step00000003.safetensors" not in warnings[1]  # it is removed, as the settings say


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"output__hub__repo_id": "a b"}, "repo_id = a b: expected a repository's name, such as user/name"),
        ({"output__hub__save_state": True}, "save_state = true: expected repo_id beside it"),
        ({"output__hub__async_upload": True}, "async_upload = true: expected repo_id beside it"),
    ],
)
def test_what_cannot_be_is_refused(trained, values, said):
    with pytest.raises(Mistake, match=said):
        trained("a", **values)


def test_without_the_package_its_name_is_told_before_the_start(trained, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Mistake, match="repo_id = me/mine: needs .* pip install huggingface_hub"):
        trained("a", **HUB)


# ── words ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_words_of_the_command_line(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "other")
    words = ["--huggingface_repo_id", "me/mine", "--huggingface_token", KEY, "--async_upload",
             "--save_state_to_huggingface", "--huggingface_repo_type", "dataset",
             "--huggingface_repo_visibility", "public", "--huggingface_path_in_repo", "p"]  # fmt: skip
    values, notes = train_values(words, declared())
    _, output, _ = assembled = assemble(values)
    assert (output.hub.repo_id, output.hub.repo_type, output.hub.path_in_repo) == ("me/mine", "dataset", "p")
    assert output.hub.save_state
    assert output.hub.async_upload
    assert notes == []
    assert sys.modules["os"].environ["HF_TOKEN"] == KEY
    assert KEY not in json.dumps(written(*assembled))
    assert not any("me/mine" in str(v) for v in written(*assembled, places=False).values())
    assert "--huggingface_token TEXT" in train_parser(declared()).format_help()


def test_a_key_in_a_file_is_refused_and_not_shown():
    with pytest.raises(Mistake) as caught:
        translate({"huggingface_token": KEY}, declared())
    assert str(caught.value) == (
        "huggingface_token: a file is easily passed on; give it on the command line, or as HF_TOKEN"
    )
    assert translate({"huggingface_token": ""}, declared()).values == {}


@pytest.mark.parametrize(
    "named", ["state", "me/mine", "a/b/c:d:e:f", "https://huggingface.co/me/mine/resolve"]
)
def test_a_state_there_has_a_name_of_its_form(named):
    with pytest.raises(Mistake, match=r"place.resume = .*: (expected user/name/folder|cannot be fetched)"):
        fetched(named)


# ── the package itself, before a server of a few answers ────────────────────────────────────────────────────


class Server(http.server.BaseHTTPRequestHandler):
    files: dict[str, bytes]
    said: list[tuple[str, str | None]]

    def log_message(self, *words: object) -> None:
        pass

    def body(self) -> bytes:
        if length := self.headers.get("Content-Length"):
            return self.rfile.read(int(length))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def answer(self, found: dict, code: int = 200) -> None:
        data = json.dumps(found).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:  # noqa: N802 (as the class names it)
        data = self.body()
        self.said.append((self.path, self.headers.get("Authorization")))
        if self.path.endswith("/repos/create"):
            self.answer({"url": "http://x/me/mine"})
        elif "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(data)["files"]]
            self.answer(
                {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]}
            )
        elif "/commit/" in self.path:
            for line in data.splitlines():
                row = json.loads(line)
                if row["key"] == "file":
                    self.files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
            commit = {"commitUrl": "http://x/me/mine/commit/1", "commitOid": "1", "success": True}
            self.answer({**commit, "hookOutput": ""})
        else:
            self.answer({"error": "unknown"}, 404)

    def do_GET(self) -> None:  # noqa: N802
        path = self.path.partition("?")[0]
        name = path.partition("/resolve/")[2].partition("/")[2]
        data = self.files.get(name.replace("%2F", "/"))
        if data is None:
            self.answer({"error": "Entry not found"}, 404)
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", 40 * "a")
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    do_HEAD = do_GET  # noqa: N815


@contextlib.contextmanager
def served():
    Server.files, Server.said = {}, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_the_package_sends_and_fetches(trained, tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    with served() as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_TOKEN", KEY)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        whole = trained("a")
        part = trained("b", **HUB, output__hub__save_state=True, output__hub__path_in_repo="p", stop=5)
        assert part.state.name == "x-step00000005-state"
        assert Server.files["p/x-step00000005.safetensors"] == part.file.read_bytes()
        assert {key for _, key in Server.said} == {f"Bearer {KEY}"}
        words = ["--resume", "me/mine/p/x-step00000005-state:main", "--resume_from_huggingface"]
        values, _ = train_values([*words, "--output_dir", str(tmp_path / "c")], declared())
        assert str(values["place.resume"]).startswith(str(tmp_path / "cache"))
        resumed = trained("c", **{p.replace(".", "__"): v for p, v in values.items()})
        a, b = load_file(whole.file), load_file(resumed.file)
        assert all(a[key].equal(b[key]) for key in a)
        with pytest.raises(Mistake, match=r"place.resume = me/mine/gone: cannot be fetched .*"):
            fetched("me/mine/gone")
