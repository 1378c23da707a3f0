"""Tagging: the rules of words against their sentences, taggers against models whose answers are known."""

from __future__ import annotations

import http.server
import json
import pathlib
import threading

import numpy as np
import pytest
from PIL import Image

from lora_train.data.memory import Memory
from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.run.control import Ended
from lora_train.workshop import booru, found, models
from lora_train.workshop.history import Undo
from lora_train.workshop.opened import Opened
from lora_train.workshop.tag import Tag
from lora_train.workshop.wording import CHARACTER, RATING, Label, Wording

GIRL, HAIR, FACE = Label("1girl"), Label("long_hair"), Label("o_o")
MIKU, SAFE, LEWD = (
    Label("hatsune_miku_(vocaloid)", CHARACTER),
    Label("general", RATING),
    Label("explicit", RATING),
)
SAID = [(SAFE, 0.9), (LEWD, 0.1), (GIRL, 0.5), (HAIR, 0.95), (FACE, 0.4), (MIKU, 0.6)]


@pytest.mark.parametrize(
    ("options", "tags"),
    [
        ({}, ["1girl", "long_hair", "o_o", "hatsune_miku_(vocaloid)"]),
        ({"thresh": 0.5}, ["1girl", "long_hair", "hatsune_miku_(vocaloid)"]),
        ({"general_threshold": 0.9}, ["long_hair", "hatsune_miku_(vocaloid)"]),
        ({"character_threshold": 0.85}, ["1girl", "long_hair", "o_o"]),
        ({"remove_underscore": True}, ["1girl", "long hair", "o_o", "hatsune miku (vocaloid)"]),
        ({"undesired_tags": "1girl, long hair"}, ["o_o", "hatsune_miku_(vocaloid)"]),
        ({"use_rating_tags": True, "thresh": 0.9}, ["general", "long_hair"]),
        ({"use_rating_tags_as_last_tag": True, "thresh": 0.9}, ["long_hair", "general"]),
        ({"use_rating_tags": True, "undesired_tags": "general", "thresh": 0.9}, ["long_hair"]),
        ({"character_tags_first": True, "thresh": 0.5}, ["hatsune_miku_(vocaloid)", "1girl", "long_hair"]),
        ({"always_first_tags": "long_hair,1girl", "thresh": 0.4}, ["long_hair", "1girl", "o_o", MIKU.name]),
        ({"character_tag_expand": True, "general_threshold": 0.99}, ["hatsune_miku", "vocaloid"]),
        ({"tag_replacement": "long_hair,hair;o_o,", "thresh": 0.4}, ["1girl", "hair", MIKU.name]),
        ({"tag_replacement": r"1girl,a\,b", "general_threshold": 0.5}, ["a,b", "long_hair", MIKU.name]),
        ({"tag_replacement": "long_hair,1girl", "thresh": 0.5}, ["1girl", MIKU.name]),
        ({"max_tags": 2}, ["long_hair", "hatsune_miku_(vocaloid)"]),
        ({"tag_order": "chance"}, ["long_hair", "hatsune_miku_(vocaloid)", "1girl", "o_o"]),
        ({"tag_order": "name"}, ["1girl", "hatsune_miku_(vocaloid)", "long_hair", "o_o"]),
        ({"escape_brackets": True, "general_threshold": 0.99}, [r"hatsune_miku_\(vocaloid\)"]),
    ],
)
def test_words_are_chosen_as_the_options_say(options, tags):
    assert Wording(**options).tags(SAID, 0.35) == tags


def test_faces_keep_their_underscores():
    spelled = Wording(remove_underscore=True)
    for face in ("(o)_(o)", "||_||", "<o>_<o>", "3_3", ">_<", "^_^"):
        assert spelled.tags([(Label(face), 1.0)], 0.5) == [face]


def test_wrong_options_are_complained_of_before_anything():
    with pytest.raises(Mistake) as e:
        build(Tag, {
            "folder": ".", "tagger": "nobody", "tag_replacement": "a,b,c", "append_tags": True,
            "overwrite": True, "use_rating_tags": True, "use_rating_tags_as_last_tag": True,
        })  # fmt: skip
    assert str(e.value).count("expected") == 4  # noqa: PLR2004


# ── a model of each shape, whose answers its pictures' colours are ──

LABELS = ["general", "sensitive", "questionable", "explicit", "blue", "green", "red_(ok)"]
KINDS = [9, 9, 9, 9, 0, 0, 4]


def wired(
    path: pathlib.Path, *, first: bool = False, side: int | str = 8, batch: int | str = "N",
    white: float = 255, logits: bool = False,
) -> None:  # fmt: skip
    """A model that says four numbers of its own, and then the mean of each colour it is given, of white's."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    shape = [batch, 3, side, side] if first else [batch, side, side, 3]
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["share"]),
        helper.make_node("MatMul", ["share", "spread"], ["wide"]),
        helper.make_node("Add", ["wide", "own"], ["output"]),
    ]
    own = np.float32([0.1, 0.7, 0.3, 0.2, 0, 0, 0])
    if logits:
        nodes[-1] = helper.make_node("Mul", ["wide", "twenty"], ["output"])
    last = {"twenty": np.float32(20)} if logits else {"own": own}
    axes = np.int64([2, 3] if first else [1, 2])
    given = {"axes": axes, "white": np.float32(white), "spread": np.eye(7, dtype=np.float32)[4:], **last}
    graph = helper.make_graph(
        nodes, "wired",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, 7])],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in given.items()])  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)


def wd(folder: pathlib.Path, **options) -> pathlib.Path:
    pytest.importorskip("onnxruntime")
    wired(folder / "model.onnx", **options)
    rows = [f"{n},{name},{kind},1" for n, (name, kind) in enumerate(zip(LABELS, KINDS, strict=True))]
    (folder / "selected_tags.csv").write_text(
        "\n".join(["tag_id,name,category,count", *rows]), encoding="utf-8"
    )
    return folder


@pytest.fixture
def pictures(tmp_path) -> pathlib.Path:
    folder = tmp_path / "some pictures ü"
    folder.mkdir()
    for name, colour in (
        ("red", (255, 0, 0)),
        ("green", (0, 255, 0)),
        ("blue", (0, 0, 255)),
        ("grey", (128,) * 3),
    ):
        Image.new("RGB", (16, 16), colour).save(folder / f"{name}.png")
    return folder


def read(folder: pathlib.Path) -> dict[str, str]:
    return {file.stem: file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.txt"))}


@pytest.mark.parametrize("options", [{}, {"first": True}, {"batch": 1}, {"batch": 3}, {"side": "H"}])
def test_a_wd_tagger_is_given_bgr_of_255_in_the_layout_of_its_file(tmp_path, pictures, options):
    tagger = wd(tmp_path / "tagger", **options)
    Tag(folder=pictures, tagger=str(tagger), use_rating_tags=True, thresh=0.5, device="cpu").run()
    assert read(pictures) == {
        "blue": "sensitive, blue", "green": "sensitive, green", "red": "sensitive, red_(ok)",
        "grey": "sensitive, blue, green, red_(ok)",
    }  # fmt: skip


def test_a_wide_picture_stands_in_the_middle_of_white():
    tagged = booru.squared(Image.new("RGB", (40, 20), (255, 0, 0)), 8, 8)
    pixels = np.asarray(tagged).astype(int)
    assert (pixels[[0, -1]] > 250).all()  # noqa: PLR2004
    assert (pixels[3:5, :, 1] < 5).all()  # noqa: PLR2004


def test_ml_danbooru_is_given_rgb_of_1_and_gives_logits(tmp_path, pictures):
    pytest.importorskip("onnxruntime")
    wired(tmp_path / "ml" / "ml.onnx", first=True, side="H", white=1, logits=True)
    (tmp_path / "ml" / "classes.json").write_text(json.dumps([*LABELS[:4], "red_x", "green", "blue"]))
    Image.new("RGB", (20, 10), (255, 0, 0)).save(pictures / "wide.png")  # another shape in the same batch
    Tag(folder=pictures, tagger=str(tmp_path / "ml"), device="cpu").run()
    assert {name: text for name, text in read(pictures).items() if name != "grey"} == {
        "red": "red_x", "green": "green", "blue": "blue", "wide": "red_x"}  # fmt: skip
    assert booru.kept((1000, 500), 448) == (896, 448)
    assert booru.kept((333, 500), 448) == (448, 672)  # 672.67, down to a multiple of 4


def test_deepdanbooru_is_given_rgb_of_1_with_its_edges_drawn_out(tmp_path, pictures):
    pytest.importorskip("onnxruntime")
    wired(tmp_path / "dd" / "deep.onnx", white=1)
    (tmp_path / "dd" / "tags.txt").write_text(
        "rating:safe\nrating:a\nrating:b\nrating:c\nred_x\ngreen\nblue_y\n"
    )
    (tmp_path / "dd" / "tags-character.txt").write_text("blue_y\n")
    Image.new("RGB", (20, 10), (255, 0, 0)).save(pictures / "wide.png")
    Tag(folder=pictures, tagger=str(tmp_path / "dd" / "deep.onnx"), use_rating_tags=True, device="cpu",
        general_threshold=0.6, character_threshold=0.4).run()  # fmt: skip
    assert read(pictures) == {
        "red": "a, red_x", "green": "a, green", "blue": "a, blue_y", "grey": "a, blue_y", "wide": "a, red_x",
    }  # fmt: skip


def test_a_keras_project_is_read_where_tensorflow_is(tmp_path, pictures, monkeypatch):
    """A stand-in of tensorflow's loader, for the package is too large to test with."""
    import sys
    import types

    class Model:
        input_shape = (None, 8, 8, 3)

        def predict_on_batch(self, batch):
            return np.concatenate([batch.mean((1, 2)), np.zeros((len(batch), 1))], 1)

    keras = types.SimpleNamespace(models=types.SimpleNamespace(load_model=lambda path, compile: Model()))
    monkeypatch.setitem(sys.modules, "tensorflow", types.SimpleNamespace(keras=keras))
    project = tmp_path / "project"
    project.mkdir()
    (project / "model-resnet_custom_v3.h5").touch()
    (project / "tags.txt").write_text("red_x\ngreen\nblue\nrating:safe\n")
    Tag(folder=pictures, tagger=str(project), thresh=0.6).run()
    assert read(pictures) == {"red": "red_x", "green": "green", "blue": "blue"}


# ── captions that are there ──


def test_captions_that_are_there_are_left_put_to_or_replaced(tmp_path, pictures):
    tagger = str(wd(tmp_path / "tagger"))
    (pictures / "red.txt").write_text("mine, Red (ok)")
    (pictures / "blue.txt").write_text("mine")
    options = {"folder": pictures, "tagger": tagger, "thresh": 0.6, "device": "cpu"}
    assert Tag(**options).foreseen(Tag(**options).opened())["count"] == 2  # noqa: PLR2004
    Tag(**options).run()
    assert read(pictures) == {"red": "mine, Red (ok)", "blue": "mine", "green": "green"}
    Tag(**options, append_tags=True).run()
    assert read(pictures) == {"red": "mine, Red (ok)", "blue": "mine, blue", "green": "green"}
    Tag(**options, overwrite=True).run()
    assert read(pictures) == {"red": "red_(ok)", "blue": "blue", "green": "green"}
    for _ in range(3):
        Undo(folder=pictures).run()
    assert read(pictures) == {"red": "mine, Red (ok)", "blue": "mine"}


def test_a_dry_run_on_the_first_few_shows_what_would_come(tmp_path, pictures):
    report = Tag(
        folder=pictures, tagger=str(wd(tmp_path / "tagger")), limit=2, dry_run=True, device="cpu"
    ).run()
    assert read(pictures) == {}
    assert report.facts["changed"] == 2  # noqa: PLR2004
    assert "  blue.png: (none) -> blue" in report.lines


def test_a_stop_keeps_what_was_done(tmp_path, pictures):
    def told(done: int, of: int) -> None:
        if done == 3:  # noqa: PLR2004
            raise Ended

    report = Tag(
        folder=pictures, tagger=str(wd(tmp_path / "tagger")), batch_size=1, thresh=0.6, device="cpu"
    ).run(told)
    assert read(pictures) == {"blue": "blue", "green": "green"}
    assert "then stopped" in report.lines[0]


def test_other_thresholds_ask_nothing_again(tmp_path, pictures, monkeypatch):
    tagger = str(wd(tmp_path / "tagger"))
    Tag(folder=pictures, tagger=tagger, thresh=0.6, device="cpu").run()
    monkeypatch.setattr(booru.Booru, "asked", None)
    work = Tag(folder=pictures, tagger=tagger, thresh=0.3)
    assert [(e["name"], e["after"]) for e in work.foreseen(work.opened())["examples"]] == [
        ("grey.png", "blue, green, red_(ok)")]  # fmt: skip
    Tag(folder=pictures, tagger=tagger, thresh=0.3, overwrite=True, device="cpu").run()
    assert read(pictures)["grey"] == "blue, green, red_(ok)"
    Image.new("RGB", (16, 16), (255, 255, 0)).save(pictures / "grey.png")  # another picture is asked about
    with pytest.raises(TypeError):
        Tag(folder=pictures, tagger=tagger, thresh=0.3, overwrite=True, device="cpu").run()


def test_damaged_pictures_and_shared_captions_are_told_of(tmp_path, pictures):
    (pictures / "bad.png").write_bytes(b"no picture")
    Image.new("RGB", (16, 16), (255, 0, 0)).save(pictures / "red.bmp")
    report = Tag(folder=pictures, tagger=str(wd(tmp_path / "tagger")), thresh=0.6, device="cpu").run()
    left = {t["name"]: t["what"] for t in report.facts["left"]}
    assert "cannot be read" in left["bad.png"]
    assert "no tag" in left["grey.png"]
    assert {"red.bmp", "red.png"} & set(left)
    assert read(pictures)["red"] == "red_(ok)"


# ── where taggers lie ──


def test_a_tagger_that_is_nowhere_is_told_of_with_the_place_to_put_it(tmp_path, pictures):
    work = Tag(folder=pictures, tagger="wd-vit-tagger-v3", model_dir=tmp_path / "taggers", download=True)
    assert work.foreseen(work.opened()) == {"of": 4, "count": 4, "examples": []}  # and nothing is fetched
    with pytest.raises(
        Mistake, match="set download.*model.onnx and selected_tags.csv into .*wd-vit-tagger-v3"
    ):
        Tag(folder=pictures, tagger="wd-vit-tagger-v3", model_dir=tmp_path / "taggers").run()
    assert read(pictures) == {}


def test_a_tagger_is_found_in_the_models_folder_and_in_the_hubs_cache(tmp_path, pictures, monkeypatch):
    wd(tmp_path / "taggers" / "wd-vit-tagger-v3")
    snapshot = tmp_path / "hub" / "models--SmilingWolf--wd-swinv2-tagger-v3" / "snapshots" / "0"
    wd(snapshot)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("wd-vit-tagger-v3", "SmilingWolf/wd-vit-tagger-v3"):
        file = models.found(name, [tmp_path / "taggers"], download=False)
        assert file == tmp_path / "taggers" / "wd-vit-tagger-v3" / "model.onnx"
    assert models.found("wd-swinv2-tagger-v3", [tmp_path / "taggers"], download=False).parent == snapshot


def test_a_download_is_whole_or_not_at_all(tmp_path, pictures, monkeypatch):
    """From a server in a thread in the hub's stead, which breaks off first."""
    tagger = wd(tmp_path / "tagger")
    asked, short = [], [True]

    class Hub(http.server.BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

        def do_GET(self) -> None:
            asked.append(self.path)
            content = (tagger / self.path.rpartition("/")[2]).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            broken = short and self.path.endswith("onnx")
            self.wfile.write(content[:50] if broken else content)

    monkeypatch.setenv("no_proxy", "*")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.server_address[1]}/")
        work = Tag(folder=pictures, tagger="wd-vit-tagger-v3", model_dir=tmp_path / "own", download=True,
                   thresh=0.6, device="cpu")  # fmt: skip
        with pytest.raises(Mistake, match="cannot be had.*model.onnx"):
            work.run()
        assert [file.name for file in (tmp_path / "own" / "wd-vit-tagger-v3").iterdir()] == [
            "selected_tags.csv"
        ]
        short.clear()
        work.run()
        hub.shutdown()
    assert asked[-1] == "/SmilingWolf/wd-vit-tagger-v3/resolve/main/model.onnx"
    assert read(pictures) == {"blue": "blue", "green": "green", "red": "red_(ok)"}


def test_a_list_of_another_model_is_refused(tmp_path, pictures):
    tagger = wd(tmp_path / "tagger")
    (tagger / "selected_tags.csv").write_text("tag_id,name,category,count\n0,one,0,1\n")
    with pytest.raises(Mistake, match="7 chances.*1 labels"):
        Tag(folder=pictures, tagger=str(tagger), device="cpu").run()
    (tagger / "selected_tags.csv").unlink()
    with pytest.raises(Mistake, match="list of labels"):
        Tag(folder=pictures, tagger=str(tagger), device="cpu").run()
    (tagger / "model.onnx").write_bytes(b"no model")
    wd_csv = "tag_id,name,category,count\n0,one,0,1\n"
    (tagger / "selected_tags.csv").write_text(wd_csv)
    with pytest.raises(Mistake, match="cannot read it"):
        Tag(folder=pictures, tagger=str(tagger), device="cpu").run()


# ── what is remembered ──


def test_answers_are_on_the_disk_before_the_work_has_ended(tmp_path, pictures, monkeypatch):
    monkeypatch.setattr(found, "EVERY", -1.0)
    memory = Memory(tmp_path / "cache" / "pictures.sqlite")
    opened = Opened(pictures, memory)
    first, *_ = opened
    with found.Found(opened, "one") as going:
        going.keep(first, b"answer")
        with found.Found(Opened(pictures, memory), "one") as other, found.Found(opened, "two") as third:
            assert other.of(first) == b"answer"
            assert third.of(first) is None


@pytest.mark.parametrize("content", [b"no database at all, but long enough to be read as one" * 40, None])
def test_without_a_place_to_remember_tagging_goes_on(tmp_path, pictures, content):
    place = tmp_path / "cache"
    if content is None:
        place.touch()  # a file where a folder should be
    else:
        place.mkdir()
        (place / found.FILE).write_bytes(content)
    opened = Opened(pictures, Memory(place / "pictures.sqlite"))
    first, *_ = opened
    with found.Found(opened, "one") as going:
        going.keep(first, b"answer")
        assert going.of(first) is None
