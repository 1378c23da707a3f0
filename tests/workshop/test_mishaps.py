"""Works leave what is not theirs, and bear folders and servers that are not as they should be."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lora_train.data.memory import Memory
from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.tools.tool import Report
from lora_train.workshop import WORKS, objects
from lora_train.workshop.address import KEY, Address
from lora_train.workshop.interrogate import Interrogator
from lora_train.workshop.journal import HOME, Journal
from lora_train.workshop.opened import Opened


def drawn(path, kind: str | None = None, ground: str = "white"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (80, 80), ground)
    ImageDraw.Draw(image).ellipse((20, 20, 60, 60), fill="blue")
    image.save(path, kind)
    return path


def work(name: str, folder, **values: object) -> Report:
    return build(WORKS[name], {"folder": folder, **values}).run()


def left(report: Report) -> dict[str, str]:
    return {row["name"]: row["what"] for row in report.facts["left"]}


def state(folder) -> dict[str, object]:
    return {
        p.relative_to(folder).as_posix(): p.readlink() if p.is_symlink() else p.read_bytes()
        for p in folder.rglob("*")
        if HOME not in p.parts and (p.is_symlink() or p.is_file())
    }


@pytest.mark.parametrize(
    ("name", "values", "copy"),
    [("flip", {}, "a_flip"), ("split", {"rows": 1, "columns": 2}, "a_1"),
     ("crop", {"by": "centre", "shape": "square", "copy": True}, "a_crop")])  # fmt: skip
def test_copies_write_over_no_caption_and_no_mask_of_another_picture(tmp_path, name, values, copy):
    drawn(tmp_path / "a.png").with_suffix(".txt").write_text("left hand")
    drawn(tmp_path / f"{copy}.jpg").with_suffix(".txt").write_text("precious")
    before = state(tmp_path)
    report = work(name, tmp_path, names=("a.png",), **values)
    assert f"{copy}.txt is there already" in left(report)["a.png"]
    assert state(tmp_path) == before

    (tmp_path / "a.txt").unlink()
    drawn(tmp_path / "a-masklabel.png")
    drawn(tmp_path / f"{copy}-masklabel.png", ground="red")
    before = state(tmp_path)
    report = work(name, tmp_path, names=("a.png",), **values)
    assert f"{copy}-masklabel.png is there already" in left(report)["a.png"]
    assert state(tmp_path) == before


def test_a_mask_of_pictures_in_two_folders_is_turned_for_neither(tmp_path):
    for name in ("one/a.png", "two/a.png", "masks/a.png", "masks/b.png", "one/b.png"):
        drawn(tmp_path / name)
    before = state(tmp_path)
    asked = {"recursive": True, "conditioning_data_dir": "masks"}
    report = work("flip", tmp_path, turn=("90",), in_place=True, **asked)
    assert {*left(report)} == {"one/a.png", "two/a.png"}
    changed = {name for name, content in state(tmp_path).items() if content != before[name]}
    assert changed == {"one/b.png", "masks/b.png"}
    work("mask", tmp_path, by="whole", names=("one/a.png", "two/a.png"), **asked)
    assert {"masks/a.png", "masks/one/a.png", "masks/two/a.png"} <= state(tmp_path).keys()


@pytest.mark.parametrize("links", [False, True])
def test_masks_do_not_leave_the_folder_by_its_parent(tmp_path, links):
    drawn(tmp_path / "set" / "a.png")
    with pytest.raises(Mistake, match="outside"):
        work("mask", tmp_path / "set", by="whole", conditioning_data_dir="../out", follow_links=links)
    assert not (tmp_path / "out").exists()


def test_a_name_too_long_for_a_mask_keeps_no_other_picture_from_one(tmp_path):
    drawn(tmp_path / f"{'n' * 245}.png")
    drawn(tmp_path / "a.png")
    report = work("mask", tmp_path, by="whole")
    assert (tmp_path / "a-masklabel.png").is_file()
    assert [*left(report)] == [f"{'n' * 245}.png"]


def test_a_jpeg_that_is_called_png_becomes_one_to_be_transparent(tmp_path):
    path = drawn(tmp_path / "a.png", "JPEG")
    work("background", tmp_path, to="transparent")
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGBA")
        assert image.getpixel((0, 0))[3] == 0
        assert image.getpixel((40, 40))[3] == 255


def test_dates_after_2262_are_borne(tmp_path):
    drawn(tmp_path / "set" / "a.png")
    drawn(tmp_path / "set" / "b.png")
    late = 10_000_000_000 * 10**9
    os.utime(tmp_path / "set" / "a.png", ns=(late, late))
    if (tmp_path / "set" / "a.png").stat().st_mtime_ns != late:
        pytest.skip("this disk does not know such dates")
    opened = Opened(tmp_path / "set", Memory(tmp_path / "memory.sqlite"))
    for entry in opened:
        opened.size(entry)
    opened.memory.keep()
    again = Opened(tmp_path / "set", Memory(tmp_path / "memory.sqlite"))
    assert [again.known(entry).width for entry in again] == [None, 80]


def test_links_come_back_though_what_they_lead_to_comes_after_them(tmp_path):
    drawn(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("a.png")
    before = state(tmp_path)
    work("aside", tmp_path, names=("a.png", "b.png"))
    assert "b.png" not in state(tmp_path)
    Journal(tmp_path).undo()
    assert state(tmp_path) == before

    with Journal(tmp_path).change("take away") as draft:
        draft.remove(tmp_path / "a.png")
        draft.remove(tmp_path / "b.png")
    Journal(tmp_path).undo()
    assert state(tmp_path) == before


def test_commands_of_a_report_touch_nothing_else(tmp_path):
    Image.new("RGBA", (300, 300), (9, 9, 9, 99)).save(tmp_path / "clear.png")
    Image.new("RGB", (300, 300), "red").convert("P").save(tmp_path / "few.png")
    lines = work("check", tmp_path, only="name:c* OR name:f*").lines
    wanted = f"convert {tmp_path} --rgb --only '(name:c* OR name:f*) problem:transparent'"
    assert any(line.endswith(wanted) for line in lines)


def test_an_empty_folder_is_not_said_to_have_folders_because_of_our_own(tmp_path):
    (tmp_path / HOME).mkdir()
    (tmp_path / "_aside").mkdir()
    assert not any("--recursive" in line for line in work("check", tmp_path).lines)
    (tmp_path / "sub").mkdir()
    assert any("--recursive" in line for line in work("check", tmp_path).lines)


def test_a_server_that_speaks_otherwise_is_said_to(monkeypatch):
    for said in ([1, 2], {"data": ["m"]}, {"data": {"a": 1}}, {"data": []}, "no", None):
        monkeypatch.setattr(Address, "_answer", lambda self, path, ask, said=said: said)
        with pytest.raises(Mistake, match="lists no models"):
            Address("http://there/v1").ready()
    said = {"choices": [{"message": {"content": "a \ud800 cat"}}]}
    monkeypatch.setattr(Address, "_answer", lambda self, path, ask: said)
    assert Address("http://there/v1", "m").asked(["data:"]) == [b"a ? cat"]


def test_a_key_is_never_printed(monkeypatch):
    monkeypatch.setenv(KEY, "sec\nret")
    with pytest.raises(Mistake, match=KEY) as e:
        Address("http://127.0.0.1:9/v1").ready()
    assert "ret" not in str(e.value).replace(KEY, "")


@pytest.mark.parametrize("address", ["http://[::1", "http://", "ftp://here", "http://here:99999/v1"])
def test_addresses_that_are_none_are_refused(tmp_path, address):
    with pytest.raises(Mistake, match="address = "):
        build(WORKS["describe"], {"folder": tmp_path, "address": address})


def test_boxes_of_endless_numbers_are_refused(tmp_path):
    with pytest.raises(Mistake, match="boxes = "):
        build(WORKS["crop"], {"folder": tmp_path, "by": "box", "boxes": [f"a.png: {'9' * 5000},1,2,3"]})


def test_pictures_are_counted_once_however_many_copies_there_are(tmp_path):
    drawn(tmp_path / "a.png")
    report = work("flip", tmp_path, turn=("mirror", "90"))
    assert report.facts["changed"] == 1
    assert report.lines[0] == "1 picture of 1 changed"
    assert len(report.facts["touched"]) == 2


def test_a_caption_that_cannot_be_read_keeps_no_other_picture_from_one(tmp_path, monkeypatch):
    drawn(tmp_path / "a.png")
    drawn(tmp_path / "b.png").with_suffix(".txt").write_bytes(b"\0\1\xff\xfe\0" * 30)
    monkeypatch.setattr(WORKS["tag"], "speaker", lambda self: Interrogator(lambda image: "cat"))
    monkeypatch.setattr(WORKS["tag"], "spoken", lambda self, speaker, answer: [answer.decode()])
    report = work("tag", tmp_path, overwrite=True)
    assert (tmp_path / "a.txt").read_text() == "cat"
    assert [*left(report)] == ["b.png"]
    assert (tmp_path / "b.txt").read_bytes() == b"\0\1\xff\xfe\0" * 30


NETWORKS = {  # inputs and outputs by their shapes, and what the outputs hold
    "two": ([(1, 3, 64, 64), (1, 1, 64, 64)], (1, 1, 64, 64), 0.5),
    "flat": ([(1, 3, 64, 64)], (1, 10), 0.5),
    "none": ([], (1, 1, 64, 64), 0.5),
    "small": ([(1, 3, 64, 64), (1, 1, 32, 32)], (1, 3, 64, 64), 0.5),
    "lost": ([(1, 3, 64, 64), (1, 1, 64, 64)], (1, 3, 64, 64), float("nan")),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_another_kind_are_said_to_be(tmp_path, name):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    inputs, output, value = NETWORKS[name]
    float32, made = onnx.TensorProto.FLOAT, onnx.helper
    held = onnx.numpy_helper.from_array(np.full(output, value, np.float32), "held")
    ports = [made.make_tensor_value_info(f"x{n}", float32, shape) for n, shape in enumerate(inputs)]
    told = [made.make_tensor_value_info("y", float32, output)]
    graph = made.make_graph([made.make_node("Identity", ["held"], ["y"])], "g", ports, told, [held])
    folder, file = tmp_path / "set", tmp_path / "model.onnx"
    onnx.save(made.make_model(graph, opset_imports=[made.make_opsetid("", 13)], ir_version=8), str(file))
    (tmp_path / "selected_tags.csv").write_text("tag_id,name,category,count\n1,cat,0,1\n")
    drawn(folder / "a.png")
    painted = drawn(tmp_path / "painted.png")
    before = state(folder)
    for asked in (("background", {"by": "remover", "remover": str(file)}), ("tag", {"tagger": str(file)}),
                  ("erase", {"by": "lama", "lama": str(file), "painted": str(painted)})):  # fmt: skip
        try:
            said = left(work(asked[0], folder, **asked[1]))["a.png"]
        except Mistake as e:
            said = str(e)
        assert "model.onnx" in said
    assert state(folder) == before


def test_a_captioner_of_which_a_part_was_loaded_is_refused(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", lambda *a, **k: None)
    drawn(tmp_path / "set" / "a.png")
    model = tmp_path / "model"
    model.mkdir()
    small = '"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16'
    (model / "config.json").write_text(
        f'{{"model_type": "git", "architectures": ["GitForCausalLM"], {small}, "vocab_size": 9}}'
    )
    (model / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(Mistake, match="captioner = .*header"):
        work("describe", tmp_path / "set", captioner=str(model))


def test_a_strip_is_seen_in_little_memory_and_as_before(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 255, (2000, 100, 3), dtype=np.uint8)
    seen = objects.Objects().prepared(Image.fromarray(noise))
    monkeypatch.setattr(objects, "LONGEST", 10**6)
    assert (seen == objects.Objects().prepared(Image.fromarray(noise))).all()
    monkeypatch.undo()
    sizes = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *a: [sizes.append(size), resize(self, size, *a)][1]
    )
    objects.Objects().prepared(Image.new("RGB", (2, 9000)))
    assert sizes == [[256, 1024]]
