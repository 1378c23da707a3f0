"""Pictures are cut where it is said, or where a face or most to see is; captions and masks follow."""

from __future__ import annotations

import pathlib
import random

import numpy as np
import pytest
from PIL import Image

from lora_train.data.buckets import Buckets
from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.preparing import command
from lora_train.workshop import faces
from lora_train.workshop.crop import Crop
from lora_train.workshop.focus import around, interest, largest
from lora_train.workshop.journal import Journal
from tests.workshop.folders import content

NOISE = np.random.default_rng(1).integers(0, 256, (60, 100, 3), dtype=np.uint8)


def run(folder, **values):
    return build(Crop, {"folder": folder, **values}).run().facts


def photograph(name):
    data = pytest.importorskip("skimage.data")
    return Image.open(pathlib.Path(data.__file__).parent / name)


def test_a_box_is_cut_to_the_pixel_and_given_back(folder):
    Image.fromarray(NOISE).save(folder / "a b.png")
    Image.fromarray(NOISE[..., 0].copy()).save(folder / "a b-masklabel.png")
    (folder / "a b.txt").write_text("a cat")
    before = content(folder)
    assert run(folder, by="box", box=[10, 20, 30, 25])["changed"] == 1
    assert np.array_equal(np.asarray(Image.open(folder / "a b.png")), NOISE[20:45, 10:40])
    assert np.array_equal(np.asarray(Image.open(folder / "a b-masklabel.png")), NOISE[20:45, 10:40, 0])
    assert (folder / "a b.txt").read_text() == "a cat"
    Journal(folder).undo()
    assert content(folder) == before


def test_boxes_are_of_the_picture_as_it_is_seen(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(NOISE).save(folder / "a.png", exif=exif.tobytes())
    seen = np.rot90(NOISE, -1)
    run(folder, by="box", box=[10, 20, 30, 25])
    with Image.open(folder / "a.png") as found:
        assert np.array_equal(np.asarray(found), seen[20:45, 10:40])
        assert 0x0112 not in found.getexif()


def test_every_picture_may_have_its_own_box(folder):
    for name in "abc":
        Image.fromarray(NOISE).save(folder / f"{name}.png")
    facts = run(folder, by="box", boxes=["a.png: 0,0,10,10", "c.png: 5,5,20,20"])
    assert [t["name"] for t in facts["touched"]] == ["a.png", "c.png"]
    assert [Image.open(folder / f"{name}.png").size for name in "abc"] == [(10, 10), (100, 60), (20, 20)]


def test_a_box_that_reaches_out_is_left_alone(folder):
    Image.fromarray(NOISE).save(folder / "a.png")
    facts = run(folder, by="box", box=[90, 0, 20, 20])
    assert "only to 100x60" in facts["left"][0]["what"]


def test_bucket_shaped_pictures_are_seen_whole_in_training(folder):
    rng = random.Random(2)
    for i in range(6):
        size = rng.randint(300, 900), rng.randint(300, 900)
        Image.new("RGB", size, (i, 0, 0)).save(folder / f"{i}.png")
    run(folder, by="centre", shape="bucket", resize=True, enlarge=True)
    buckets = Buckets(enable_bucket=True)
    for path in folder.glob("*.png"):
        size = Image.open(path).size
        fit = buckets.fit(size)
        assert fit.bucket == fit.resized == size


def test_nothing_is_enlarged_unless_asked(folder):
    Image.fromarray(NOISE).save(folder / "a.png")
    run(folder, by="centre", shape="square", resize=True)
    assert Image.open(folder / "a.png").size == (60, 60)
    run(folder, by="centre", shape="square", resize=True, enlarge=True, resolution="128")
    assert Image.open(folder / "a.png").size == (128, 128)


@pytest.mark.parametrize("at", [0, 130, 300])
@pytest.mark.parametrize("upright", [False, True])
def test_what_stands_out_is_in_the_middle_as_far_as_that_goes(at, upright):
    scene = np.full((100, 400, 3), 128, np.uint8)
    scene[:, at : at + 60] = np.random.default_rng(3).integers(0, 256, (100, 60, 3))
    scene = scene.swapaxes(0, 1).copy() if upright else scene
    image = Image.fromarray(scene)
    box = largest(image.size, 1.0, interest(image))
    found = box[1] if upright else box[0]
    assert (box[2] - box[0], box[3] - box[1]) == (100, 100)
    assert abs(found - min(max(at + 30 - 50, 0), 300)) <= 6


def test_colour_counts_where_there_are_no_edges():
    ramp = np.full((100, 300, 3), 90, np.uint8)
    ramp[20:80, 220:280] = (255, 40, 40)
    left = largest((300, 100), 1.0, interest(Image.fromarray(ramp)))[0]
    assert left >= 180


def test_faces_count_as_much_as_they_are_told_to():
    flat = Image.new("RGB", (300, 100))
    assert largest((300, 100), 1.0, interest(flat))[0] == 100
    face = (240, 30, 280, 70)
    assert largest((300, 100), 1.0, interest(flat, [face], 1.0))[0] == 200
    places = interest(flat, [face], 0.25)
    assert abs(places.sum() - 1) < 1e-5
    scale = places.shape[1] / 300
    own = places[int(30 * scale) : int(70 * scale) + 1, int(240 * scale) : int(280 * scale) + 1].sum()
    assert 0.25 < own < 0.45


def test_room_around_a_box_keeps_its_middle_its_ratio_and_the_picture():
    rng = random.Random(4)
    for _ in range(300):
        size = rng.randint(50, 400), rng.randint(50, 400)
        left, top = rng.randint(0, size[0] - 20), rng.randint(0, size[1] - 20)
        box = left, top, left + rng.randint(4, 20), top + rng.randint(4, 20)
        ratio = rng.choice([0.5, 1.0, 1.7])
        a, b, c, d = around(box, size, margin=rng.uniform(0, 2), ratio=ratio)
        assert 0 <= a < c <= size[0]
        assert 0 <= b < d <= size[1]
        assert abs((c - a) - (d - b) * ratio) <= 1 + ratio
        assert a <= box[0] + 1
        assert c >= box[2] - 1
    assert around((40, 40, 60, 60), (100, 100), margin=0.5) == (30, 30, 70, 70)


# ── faces ──


def test_a_face_is_found_in_a_photograph(folder):
    pytest.importorskip("cv2")
    photograph("astronaut.png").save(folder / "astronaut.png")
    photograph("coffee.png").save(folder / "coffee.png")
    (folder / "astronaut.txt").write_text("a woman")
    before = content(folder)
    facts = run(folder, by="face", shape="square")
    assert [t["name"] for t in facts["touched"]] == ["astronaut.png"]
    assert [(t["name"], t["what"]) for t in facts["left"]] == [("coffee.png", "no face was found")]
    found = np.asarray(Image.open(folder / "astronaut.png"))
    assert found.shape[0] == found.shape[1] < 300
    box = places(found, np.asarray(photograph("astronaut.png")))
    assert box[0] < 190 < 250 < box[2]  # where her eyes and mouth are
    assert box[1] < 80 < 165 < box[3]
    Journal(folder).undo()
    assert content(folder) == before


def places(part, whole):
    """Where a part of a picture lies in it."""
    high, wide = part.shape[:2]
    for top in range(whole.shape[0] - high + 1):
        for left in range(whole.shape[1] - wide + 1):
            if np.array_equal(whole[top, left : left + wide], part[0]):
                return left, top, left + wide, top + high
    raise AssertionError("it is none")


def test_several_faces_become_copies_and_the_picture_stays(folder):
    pytest.importorskip("cv2")
    face = photograph("astronaut.png").crop((140, 0, 320, 220))
    both = Image.new("RGB", (400, 220), (90, 90, 90))
    both.paste(face, (0, 0))
    both.paste(face.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (220, 0))
    both.save(folder / "two.jpg", quality=95)
    (folder / "two.caption").write_bytes("two women".encode("utf-16"))
    before = content(folder)
    facts = run(folder, by="face", faces="each", margin=0.2)
    assert facts["changed"] == 1
    assert len(facts["touched"]) == 2
    for name in ("two_face1", "two_face2"):
        assert (folder / f"{name}.caption").read_bytes() == before["two.caption"]
        assert max(Image.open(folder / f"{name}.jpg").size) < 200
    assert (folder / "two.jpg").read_bytes() == before["two.jpg"]
    again = run(folder, by="face", faces="each", margin=0.2, names=["two.jpg"])
    assert again["left"][0]["what"] == "two_face1.jpg is there already"
    Journal(folder).undo()
    assert content(folder) == before
    run(folder, by="face", faces="all")
    assert Image.open(folder / "two.jpg").size[0] > 300


def test_where_no_face_is_it_may_be_cut_all_the_same(folder):
    pytest.importorskip("cv2")
    Image.fromarray(NOISE).save(folder / "a.png")
    facts = run(folder, by="face", shape="square", missing="centre")
    assert facts["touched"][0]["what"] == "no face found; 100x60 to 60x60"
    assert np.array_equal(np.asarray(Image.open(folder / "a.png")), NOISE[:, 20:80])


def test_a_person_is_a_face_and_what_is_below(folder):
    pytest.importorskip("cv2")
    picture = photograph("astronaut.png").convert("RGB")
    [face], [person] = (faces.finder(what, None)(picture) for what in ("face", "person"))
    assert person[0] < face[0] < face[2] < person[2]
    assert person[1] < face[1]
    assert person[3] == picture.height


@pytest.mark.parametrize("kind", ["later", "before", "sorted"])
def test_yolos_of_every_generation_are_read(tmp_path, kind):
    """A network that gives two boxes, one of them twice, and one it is not sure of, whatever it sees."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    truth = [(50, 40, 20, 30, 0.9), (51, 41, 20, 30, 0.8), (20, 20, 10, 10, 0.6), (80, 80, 9, 9, 0.1)]
    rows = np.array(truth, np.float32)
    if kind == "later":
        out = np.concatenate([rows[:, :4], np.zeros((4, 1), np.float32), rows[:, 4:]], 1)
        out = np.concatenate([out, np.zeros((60, 6), np.float32)]).T
    elif kind == "before":
        out = np.concatenate([rows, np.tile(np.float32([[0, 1]]), (4, 1))], 1)
        out = np.concatenate([out, np.zeros((60, 7), np.float32)])
    else:
        corners = np.concatenate([rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2], 1)
        out = np.concatenate([corners, rows[:, 4:], np.ones((4, 1), np.float32)], 1)
    helper, numbers = onnx.helper, onnx.numpy_helper
    out = np.ascontiguousarray(out[None])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["given"], ["output0"])], "yolo",
        [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1, 3, 100, 100])],
        [helper.make_tensor_value_info("output0", onnx.TensorProto.FLOAT, out.shape)],
        [numbers.from_array(out, "given")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    entry = model.metadata_props.add()
    entry.key, entry.value = "names", "{0: 'person', 1: 'face'}"
    onnx.save(model, tmp_path / "faces.onnx")
    find = faces.finder("face", str(tmp_path))  # the folder
    assert find(Image.new("RGB", (200, 100))) == [(80, 50, 120, 100), (30, 30, 50, 50)]
    if kind != "sorted":
        return
    assert faces.finder("person", str(tmp_path / "faces.onnx"))(Image.new("RGB", (200, 100))) == []


def test_drawn_faces_are_looked_for_by_their_own_package():
    pytest.importorskip("animeface")
    assert faces.finder("face", "animeface")(Image.new("RGB", (200, 100), "white")) == []


@pytest.mark.parametrize(
    ("source", "word"),
    [("nowhere.onnx", "no such file"), ("", "ends with .onnx or .xml"), ("a.xml", "OpenCV cascade"),
     ("a.onnx", "YOLO"), ("a.pt", "ends with .xml or .onnx")],
)  # fmt: skip
def test_a_detector_that_is_none_is_refused(tmp_path, source, word):
    pytest.importorskip("cv2")
    pytest.importorskip("onnxruntime")
    if source:
        (tmp_path / source).write_bytes(b"<opencv_storage></opencv_storage>")
    source = source if source.startswith("nowhere") else str(tmp_path / source)
    with pytest.raises(Mistake, match=word):
        faces.finder("face", source)


def test_without_opencv_it_is_said_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    Image.fromarray(NOISE).save(folder / "a.png")
    with pytest.raises(Mistake, match="opencv-python-headless<5"):
        run(folder, by="face", shape="square")


@pytest.mark.parametrize(
    ("values", "word"),
    [({"by": "box"}, "expected left,top"), ({"box": [1, 2, 3, 4]}, "by = focus"), ({"by": "focus"}, "shape"),
     ({"by": "box", "box": [1, 2, 3]}, "four numbers"), ({"by": "box", "boxes": ["a 1,2,3,4"]}, "name: left"),
     ({"shape": "round"}, "3:4"), ({"by": "face", "missing": "focus"}, "shape"),
     ({"by": "box", "boxes": ["b.png: 1,2,3,4"]}, "no such picture")],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(folder, values, word):
    Image.fromarray(NOISE).save(folder / "a.png")
    with pytest.raises(Mistake, match=word):
        run(folder, **values)


def test_the_command_says_what_it_would_do(folder, capsys):
    Image.fromarray(NOISE).save(folder / "a.png")
    before = content(folder)
    assert command(["crop", str(folder), "--shape", "square", "--by", "centre", "--dry_run"]) == 0
    assert "a.png: 100x60 to 60x60" in capsys.readouterr().out
    assert content(folder) == before
