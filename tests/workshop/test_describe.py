"""Captions of sentences: a BLIP of random weights, a server in a thread, and what stands in for the WebUI."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import http.server
import io
import json
import pathlib
import sys
import threading
import types

import pytest
import torch
from PIL import Image

from lora_train.errors import Mistake
from lora_train.host import Folders
from lora_train.knobs import build, settings
from lora_train.ui.guard import Guard
from lora_train.workshop import address
from lora_train.workshop.captioner import Captioner
from lora_train.workshop.describe import Describe
from lora_train.workshop.interrogate import Interrogate

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "a", "red", "cat", "on", "mat", "photo", "of"]


@pytest.fixture
def pictures(tmp_path) -> pathlib.Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, colour in (("blue", (0, 0, 255)), ("green", (0, 255, 0)), ("red", (255, 0, 0))):
        Image.new("RGB", (1200, 600), colour).save(folder / f"{name}.png")
    return folder


def read(folder: pathlib.Path) -> dict[str, str]:
    return {file.stem: file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.txt"))}


# ── transformers ──


@pytest.fixture(scope="module")
def blip(tmp_path_factory) -> pathlib.Path:
    """Of random weights, but for a liking for "cat"."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("blip")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    small = {"hidden_size": 16, "intermediate_size": 16, "projection_dim": 8, "num_hidden_layers": 1,
             "num_attention_heads": 2}  # fmt: skip
    text = {"vocab_size": len(WORDS), "encoder_hidden_size": 16, "max_position_embeddings": 32,
            "bos_token_id": 5, "pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3}  # fmt: skip
    torch.manual_seed(0)
    net = transformers.BlipForConditionalGeneration(transformers.BlipConfig(
        text_config={**small, **text}, vision_config={**small, "image_size": 32, "patch_size": 16},
        projection_dim=8))  # fmt: skip
    with torch.no_grad():
        net.text_decoder.cls.predictions.bias[WORDS.index("cat")] = 50
    net.save_pretrained(folder)
    reader = getattr(transformers, "BlipImageProcessorPil", transformers.BlipImageProcessor)
    tokens = transformers.BertTokenizer(str(folder / "vocab.txt"), bos_token="[DEC]")
    transformers.BlipProcessor(reader(size={"height": 32, "width": 32}), tokens).save_pretrained(folder)
    return folder


def test_a_captioner_of_transformers_writes_what_its_model_likes(blip, pictures):
    options = {"folder": pictures, "captioner": str(blip), "max_length": 3, "min_length": 0, "device": "cpu"}
    Describe(**options, batch_size=2).run()
    assert {*read(pictures).values()} == {"cat cat cat"}


@pytest.fixture(scope="module")
def git(tmp_path_factory) -> pathlib.Path:
    """Likewise; it takes the words that it begins with as the beginning of what it writes."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("git")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    net = transformers.GitForCausalLM(transformers.GitConfig(
        vision_config={**small, "image_size": 32, "patch_size": 16}, **small, vocab_size=len(WORDS),
        max_position_embeddings=64, pad_token_id=0, bos_token_id=2, eos_token_id=3))  # fmt: skip
    with torch.no_grad():
        net.output.bias[WORDS.index("cat")] = 50
    net.save_pretrained(folder)
    reader = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)
    transformers.GitProcessor(
        reader(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        transformers.BertTokenizer(str(folder / "vocab.txt"))).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.mark.parametrize("prompt", [None, "a photo of"])
def test_a_captioner_that_goes_on_from_its_words_writes_the_rest(git, pictures, prompt):
    options = {"prompt": prompt, "max_length": 3, "min_length": 0, "limit": 2, "device": "cpu"}
    Describe(folder=pictures, captioner=str(git), **options).run()
    assert read(pictures) == {"blue": "cat cat cat", "green": "cat cat cat"}


def test_the_words_it_begins_with_are_not_written(blip, pictures):
    options = {"prompt": "a photo of", "max_length": 2, "min_length": 0, "num_beams": 1, "limit": 1}
    Describe(folder=pictures, captioner=str(blip), **options).run()
    assert read(pictures) == {"blue": "cat cat"}
    assert Captioner("x", "A  photo of")._alone("a photo of a cat") == "a cat"


def test_a_captioner_that_is_not_there_is_told_of(pictures, monkeypatch, tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(
        Mistake, match="Salesforce/blip-image-captioning-large: cannot be loaded.*set download"
    ):
        Describe(folder=pictures).run()
    (tmp_path / "empty").mkdir()
    with pytest.raises(Mistake, match="a folder with all its files"):
        Describe(folder=pictures, captioner=str(tmp_path / "empty")).run()
    assert read(pictures) == {}


# ── an address ──


class Server(http.server.ThreadingHTTPServer):
    """Says which colour a picture has, and of what size it came."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.failing, self.status, self.keys = [], 0, 503, set()


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass

    def reply(self, status: int, said: object, **heads: str) -> None:
        body = json.dumps(said).encode()
        self.send_response(status)
        for name, value in {**heads, "Content-Length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.reply(200, {"data": [{"id": "first"}, {"id": "second"}]})

    def do_POST(self) -> None:
        ask = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.keys.add(self.headers.get("Authorization"))
        if self.server.failing:
            self.server.failing -= 1
            return self.reply(
                self.server.status, {"error": "no"}, Location="http://127.0.0.1:9/", Retry_After="0"
            )
        text, picture = ask["messages"][0]["content"]
        head, _, data = picture["image_url"]["url"].partition(",")
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        colour = max(zip(image.getpixel((5, 5)), ("red", "green", "blue"), strict=True))[1]
        self.server.asked.append((ask["model"], text["text"], head, image.size))
        said = f"A {colour}\n picture. "
        return self.reply(200, {"choices": [{"message": {"role": "assistant", "content": said}}]})


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(address, "PAUSE", 0.01)
    monkeypatch.setenv("no_proxy", "*")
    with Server() as made:
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        yield made
        made.shutdown()


def at(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/v1"


def test_a_server_is_sent_the_picture_made_small_and_its_answer_is_written(server, pictures, monkeypatch):
    monkeypatch.setenv("LORA_TRAIN_API_KEY", "secret")
    (pictures / "red.txt").write_text("tag")
    Describe(folder=pictures, address=at(server), append_tags=True, prompt="What?", longest_side=512).run()
    assert read(pictures) == {
        "blue": "A blue picture.", "green": "A green picture.", "red": "tag, A red picture."}  # fmt: skip
    assert set(server.asked) == {("first", "What?", "data:image/jpeg;base64", (512, 256))}
    assert server.keys == {"Bearer secret"}


def test_a_busy_server_is_asked_again_and_what_it_said_is_kept(server, pictures):
    server.failing = 3
    Describe(folder=pictures, address=at(server), captioner="second", batch_size=1).run()
    assert len(read(pictures)) == 3 and {model for model, *_ in server.asked} == {"second"}  # noqa: PLR2004, PT018
    server.failing = 10
    Describe(folder=pictures, address=at(server), captioner="second", overwrite=True).run()
    assert server.failing == 10  # noqa: PLR2004 (it was not asked)
    with pytest.raises(Mistake, match="does not answer .503.*is kept"):
        Describe(folder=pictures, address=at(server), captioner="other", overwrite=True, batch_size=1).run()
    assert read(pictures)["red"] == "A red picture."


def test_a_picture_that_a_server_refuses_is_left(server, pictures):
    server.failing, server.status = 1, 400
    report = Describe(folder=pictures, address=at(server), batch_size=1).run()
    assert [t["name"] for t in report.facts["left"]] == ["blue.png"]
    assert "refused (400" in report.facts["left"][0]["what"]
    assert {*read(pictures)} == {"green", "red"}


@pytest.mark.parametrize("status", [302, 307, 401])
def test_nothing_is_sent_where_a_server_sends_one(server, pictures, status):
    server.failing, server.status = 1, status
    with pytest.raises(Mistake, match=str(status)):
        Describe(folder=pictures, address=at(server), batch_size=1).run()
    assert server.asked == [] and read(pictures) == {}  # noqa: PT018


def test_wrong_addresses_are_refused_before_anything_is_sent(pictures):
    for wrong in ("localhost:1234", "file:///etc/passwd", "http://"):
        with pytest.raises(Mistake, match="expected one such as http://localhost:1234/v1"):
            build(Describe, {"folder": str(pictures), "address": wrong})


@pytest.mark.parametrize("value", [{"address": "http://10.0.0.1/v1"}, {"captioner": "some/one"}])
def test_from_another_machine_nothing_is_sent_or_loaded_that_is_named(pictures, value):
    folders = Folders(pictures, pictures, pictures=(pictures,))
    for remote in (False, True):
        guard = Guard(dataclasses.replace(folders, pictures=(pictures,) if remote else ()), remote=remote)
        known = {s.path: s for s in settings(Describe)}
        given = guard.values({"folder": str(pictures), **value}, known)
        assert value.items() <= given.items()
        named = [*build(Describe, given).named()]
        assert [name for name, _ in named] == [*value]
        with pytest.raises(Mistake, match="from other machines") if remote else contextlib.nullcontext():
            guard.path(str(named[0][1]), named[0][0])


# ── the WebUI's own ──


@pytest.fixture
def webui(tmp_path, monkeypatch):
    """As much of `modules` as is asked, in the WebUI's words (v1.10.1)."""

    def tag(image: Image.Image) -> str:
        assert lock.locked()
        return "blue sky, 1girl" if image.getpixel((0, 0)) == (0, 0, 255) else "(red:1.2)"

    lock = threading.Lock()
    flags = types.SimpleNamespace(clip_models_path=str(tmp_path / "clip"))
    clip = types.SimpleNamespace(interrogate=lambda image: "a<error>", content_dir=str(tmp_path / "words"))
    shared = types.SimpleNamespace(cmd_opts=flags, interrogator=clip)
    parts = {
        "call_queue": types.SimpleNamespace(queue_lock=lock), "shared": shared,
        "deepbooru": types.SimpleNamespace(model=types.SimpleNamespace(tag=tag)),
        "paths": types.SimpleNamespace(models_path=str(tmp_path / "models")),
    }  # fmt: skip
    monkeypatch.setitem(sys.modules, "modules", types.SimpleNamespace(**parts))
    for name, part in parts.items():
        monkeypatch.setitem(sys.modules, f"modules.{name}", part)
    return tmp_path / "models"


class Host:
    @staticmethod
    def interrogator(name: str, *, download: bool):
        from lora_train.hosts.webui.interrogators import found

        return found(name, download=download)


def test_the_webuis_interrogators_are_asked_in_its_turn(webui, pictures):
    work = Interrogate(folder=pictures, interrogator="deepdanbooru")
    with pytest.raises(Mistake, match="model-resnet_custom_v3.pt into .*torch_deepdanbooru"):
        work.within(Host())
    (webui / "torch_deepdanbooru").mkdir(parents=True)
    (webui / "torch_deepdanbooru" / "model-resnet_custom_v3.pt").touch()
    work.within(Host())
    assert read(pictures) == {"blue": "blue sky, 1girl", "green": "(red:1.2)", "red": "(red:1.2)"}
    with pytest.raises(
        Mistake, match="capfilt_large.pth into .*BLIP, and ViT-L-14.pt into .*clip, and artists.txt"
    ):
        Interrogate(folder=pictures, overwrite=True).within(Host())
    again = Interrogate(folder=pictures, download=True, overwrite=True)
    with pytest.raises(Mistake, match="could not be fetched; put model_base_caption_capfilt_large.pth into"):
        again.within(Host())
    for file in ("models/BLIP/a.pth", "clip/a.pt", "words/artists.txt"):
        (webui.parent / file).parent.mkdir(parents=True)
        (webui.parent / file).touch()
    with pytest.raises(Mistake, match="could not answer"):
        again.within(Host())
    with pytest.raises(Mistake, match="inside the WebUI alone"):
        Interrogate(folder=pictures, overwrite=True).run()


def test_an_interrogator_that_cannot_be_fetched_is_said(webui, pictures, monkeypatch):
    def tag(image: Image.Image) -> str:
        return [][0]  # as the WebUI ends where its download failed

    monkeypatch.setattr(sys.modules["modules.deepbooru"].model, "tag", tag)
    with pytest.raises(Mistake, match="could not be fetched; put model-resnet_custom_v3.pt into"):
        Interrogate(folder=pictures, interrogator="deepdanbooru", download=True).within(Host())
    assert not [*pictures.glob("*.txt")]
