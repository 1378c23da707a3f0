"""Subjects are told from grounds, grounds are replaced, and masks are what training reads."""

from __future__ import annotations

import base64
import io
import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lora_train.data.folder import Data, Dataset, Subset
from lora_train.data.pictures import mask as read_mask
from lora_train.data.plan import plan
from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.run.control import Ended
from lora_train.workshop import background, flood, removers, soft
from lora_train.workshop.background import Background
from lora_train.workshop.journal import Journal
from lora_train.workshop.mask import Mask
from lora_train.workshop.subject import REMOVER

GROUND, BODY = (230, 240, 250), (180, 40, 30)
CLEAR = [(x, y) for x, y in itertools.product(range(64), range(48)) if 16 <= x < 40 and 10 <= y < 40]


def drawing(size=(64, 48), scale=1):
    """A ring with a hole, on plain ground."""
    image = Image.new("RGB", (size[0] * scale, size[1] * scale), GROUND)
    draw = ImageDraw.Draw(image)
    draw.ellipse([v * scale for v in (16, 8, 47, 39)], fill=BODY)
    draw.ellipse([v * scale for v in (27, 19, 36, 28)], fill=GROUND)
    return image.resize(size, Image.Resampling.BOX)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "bilder é 1"
    folder.mkdir()
    drawing().save(folder / "ring.png")
    return folder


def run(work, folder, **values):
    return build(work, {"folder": folder, **values}).run()


def grey(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def address(mask):
    file = io.BytesIO()
    mask.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


# ── grounds ──


def test_what_hangs_together_with_the_border_is_found_as_by_walking():
    """Against a search from place to place."""
    rng = np.random.default_rng(3)
    for share in (0.3, 0.55, 0.62, 0.8):
        like = rng.random((31, 40)) < share
        found, waiting = np.zeros_like(like), []
        for y, x in itertools.product(range(31), range(40)):
            if like[y, x] and (y in (0, 30) or x in (0, 39)):
                waiting.append((y, x))
        while waiting:
            y, x = waiting.pop()
            if 0 <= y < 31 and 0 <= x < 40 and like[y, x] and not found[y, x]:
                found[y, x] = True
                waiting += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
        assert (flood.hanging(like) == found).all()


def test_masks_grow_by_a_circle():
    """Against the largest of all places within the circle."""
    rng = np.random.default_rng(0)
    pixels = (rng.random((20, 23)) * 255).astype(np.uint8)
    for radius in (1, 3, 25):
        expected = np.zeros_like(pixels)
        for y, x in itertools.product(range(20), range(23)):
            near = [pixels[v, u] for v, u in itertools.product(range(20), range(23))
                    if (v - y) ** 2 + (u - x) ** 2 <= radius**2]  # fmt: skip
            expected[y, x] = max(near)
        assert (np.asarray(soft.grown(Image.fromarray(pixels), radius)) == expected).all()
        turned = soft.grown(Image.fromarray(255 - pixels), -radius)
        assert (np.asarray(turned) == 255 - expected).all()


def test_the_subjects_colour_is_found_under_a_soft_edge():
    """What is mixed of two colours comes apart again, and so gives no fringe on another ground."""
    alpha = np.tile(((np.arange(64, dtype=np.float32) - 28) / 8).clip(0, 1), (64, 1))
    front, back = np.array([0.7, 0.2, 0.1]), np.array([0.9, 0.95, 1.0])
    mixed = alpha[..., None] * front + (1 - alpha[..., None]) * back
    found = soft.foreground(mixed, alpha)
    assert np.abs(found - front)[alpha > 0.3].max() < 0.05
    assert np.abs(mixed - front)[alpha > 0.3].max() > 0.4


def test_plain_ground_gives_way_to_the_edge(folder):
    """A smooth edge on new ground is as if it had been drawn there."""
    drawing(scale=8).save(folder / "ring.png")
    report = run(Background, folder, to="#204080", holes=True, tolerance=4)
    expected = Image.new("RGB", (64 * 8, 48 * 8), "#204080")
    draw = ImageDraw.Draw(expected)
    draw.ellipse([v * 8 for v in (16, 8, 47, 39)], fill=BODY)
    draw.ellipse([v * 8 for v in (27, 19, 36, 28)], fill="#204080")
    expected = expected.resize((64, 48), Image.Resampling.BOX)
    with Image.open(folder / "ring.png") as found:
        away = np.abs(np.asarray(found).astype(int) - np.asarray(expected))
    assert away.max() <= 24
    assert away.mean() < 0.5
    assert "of it is ground" in report.facts["touched"][0]["what"]


def test_large_pictures_are_done_in_parts_that_do_not_show(folder, monkeypatch):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).resize((300, 260))
    alpha = Image.fromarray(rng.integers(0, 256, (9, 7), np.uint8)).resize((300, 260))
    noise.putalpha(alpha)
    found = []
    for rows in (1000, 64):
        noise.save(folder / "ring.png")
        monkeypatch.setattr(background, "ROWS", rows)
        monkeypatch.setattr(Background, "_found", lambda self, shot: alpha)
        run(Background, folder, by="colour", to="lime")
        with Image.open(folder / "ring.png") as image:
            found.append(np.asarray(image).astype(int))
    assert np.abs(found[0] - found[1]).max() <= 1


def test_enclosed_ground_stays_unless_it_is_asked_for(folder):
    run(Background, folder, to="black")
    with Image.open(folder / "ring.png") as image:
        assert image.getpixel((0, 0)) == (0, 0, 0)
        assert image.getpixel((31, 23)) == GROUND


def test_a_transparent_jpeg_is_a_png_and_undone_to_the_byte(folder):
    (folder / "ring.png").unlink()
    drawing().save(folder / "ring.jpg", quality=95)
    (folder / "ring.txt").write_text("a ring")
    before = (folder / "ring.jpg").read_bytes()
    run(Background, folder, to="transparent")
    assert sorted(p.name for p in folder.glob("ring.*")) == ["ring.png", "ring.txt"]
    with Image.open(folder / "ring.png") as image:
        assert image.mode == "RGBA"
        assert image.getpixel((1, 1)) == (255, 255, 255, 0)
        assert image.getpixel((20, 23))[3] == 255
        assert max(abs(a - b) for a, b in zip(image.getpixel((20, 23)), BODY, strict=False)) < 12
    Journal(folder).undo()
    assert (folder / "ring.jpg").read_bytes() == before
    assert not (folder / "ring.png").exists()


def test_what_is_transparent_gets_a_colour(folder):
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 8, 4))
    image.putpixel((0, 7), (0, 0, 255, 128))
    image.save(folder / "clear.png")
    report = run(Background, folder, by="alpha", to="white")
    assert [left["name"] for left in report.facts["left"]] == ["ring.png"]
    assert "nothing in it is transparent" in report.facts["left"][0]["what"]
    with Image.open(folder / "clear.png") as image:
        assert image.mode == "RGB"
        assert image.getpixel((0, 0)) == (0, 0, 255)
        assert image.getpixel((5, 7)) == (255, 255, 255)
        assert image.getpixel((0, 7)) == (127, 127, 255)


def test_a_photograph_has_no_plain_ground(folder):
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    Image.new("RGB", (64, 48), GROUND).save(folder / "empty.png")
    before = (folder / "noise.png").read_bytes()
    left = {t["name"]: t["what"] for t in run(Background, folder).facts["left"]}
    assert "no plain ground" in left["noise.png"]
    assert "no subject is found" in left["empty.png"]
    assert (folder / "noise.png").read_bytes() == before


def test_an_animation_stays_one(folder):
    frames = [drawing(), drawing().rotate(90)]
    frames[0].save(folder / "moves.gif", save_all=True, append_images=frames[1:])
    left = {t["name"]: t["what"] for t in run(Background, folder).facts["left"]}
    assert left["moves.gif"].startswith("an animation of 2 pictures")


def test_a_stop_keeps_what_was_done(folder):
    for name in "abc":
        drawing().save(folder / f"{name}.png")

    def told(done, of):
        if done == 2:
            raise Ended

    report = build(Mask, {"folder": folder, "by": "colour"}).run(told)
    assert report.facts["changed"] == 2
    assert sorted(p.name for p in folder.glob("*-masklabel.png")) == ["a-masklabel.png", "b-masklabel.png"]


# ── networks ──


def network(path, side):
    """The mean of red, green and blue around each place: what U2-Net's files take and give."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    weight = helper.make_tensor("w", real, (1, 3, 1, 1), [1 / 3] * 3)
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", real, [1, 3, side, side])],
        [helper.make_tensor_value_info("y", real, [1, 1, side, side])], [weight])  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_network_is_asked_as_rembg_asks_it(tmp_path):
    """A sum of channels is brightest where the picture is, whatever is taken off and divided by."""
    file = network(tmp_path / "u2netp.onnx", 320)
    image = Image.new("RGB", (320, 320), (20, 20, 20))
    image.paste((200, 200, 200), (100, 50, 200, 250))
    found = np.asarray(removers.finder(str(file))(image))
    assert (found == np.where(np.asarray(image)[..., 0] > 100, 255, 0)).all()
    assert not np.asarray(removers.finder(str(file))(Image.new("RGB", (40, 30), "grey"))).any()


def test_a_file_that_is_no_network_is_refused(tmp_path, folder):
    pytest.importorskip("onnxruntime")
    (tmp_path / "u2net.onnx").write_bytes(b"not a network")
    with pytest.raises(Mistake, match=r"remover = .*u2net.onnx: onnxruntime cannot read it \("):
        run(Background, folder, by=REMOVER, remover=str(tmp_path / "u2net.onnx"))


def test_it_is_what_rembg_says(tmp_path, monkeypatch):
    rembg = pytest.importorskip("rembg")
    monkeypatch.setenv("U2NET_HOME", str(tmp_path))
    monkeypatch.setenv("MODEL_CHECKSUM_DISABLED", "1")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8))
    for name, side in (("u2net", 320), ("isnet-anime", 1024), ("birefnet-general", 1024)):
        network(tmp_path / f"{name}.onnx", side)
        assert removers.finder(name)(image).tobytes() == rembg.new_session(name).predict(image)[0].tobytes()


def test_networks_lie_where_rembg_keeps_them(tmp_path, monkeypatch, folder):
    monkeypatch.setenv("U2NET_HOME", str(tmp_path / "old"))
    monkeypatch.setenv("REMBG_HOME", str(tmp_path / "new"))
    with pytest.raises(
        Mistake, match=r"remover = u2net: not on this machine; get u2net.onnx from .* put it to"
    ):
        run(Background, folder, by=REMOVER)
    network(tmp_path / "old" / "u2net.onnx", 320)
    network(tmp_path / "new" / "models" / "silueta" / "silueta.onnx", 320)
    for name in ("u2net", "silueta"):
        report = run(Mask, folder, by=REMOVER, remover=name, invert=True)
        assert report.facts["changed"] == 1
        found = grey(folder / "ring-masklabel.png")
        assert found[23, 20] > 200 > 60 > found[2, 2]


def test_files_of_other_names_are_told_by_name_or_input(tmp_path):
    table = removers.REMOVERS
    for name, side, expected in (
        ("isnet-anime_fp16", 1024, "isnet-anime"), ("BiRefNet-v2", 1024, "birefnet-dis"),
        ("mine", 1024, "isnet-general-use"), ("mine", 320, "u2net"),
        ("u2net_human_seg", None, "u2net_human_seg"),
    ):  # fmt: skip
        assert removers.kind(tmp_path / f"{name}.onnx", side) == table[expected]


# ── masks ──


def test_training_reads_what_was_masked(folder, tmp_path):
    for values, how in (
        ({}, {"mask_suffix": "-masklabel"}),
        ({"conditioning_data_dir": "masks"}, {"conditioning_data_dir": folder / "masks"}),
    ):
        report = run(Mask, folder, by="colour", holes=True, **values)
        name, value = next(iter(how.items()))
        assert f"data.{name} = {value}" in report.lines[-1]
        subset = Subset(image_dir=folder, **how)
        sources = plan(Data(datasets=(Dataset(subsets=(subset,), enable_bucket=True, min_bucket_reso=8,
                                              resolution=build(Dataset, {"resolution": "64,48"}).resolution,
                                              bucket_reso_steps=8),))).sources  # fmt: skip
        (item,) = sources[0].items
        found = read_mask(item)[0]
        body = np.asarray(drawing())[..., 1] < 100
        expected = body.reshape(6, 8, 8, 8).mean((1, 3))
        assert found.shape == (6, 8)
        assert np.abs(found.numpy() - expected).max() < 0.1
        Journal(folder).undo()
        assert sorted(p.name for p in folder.iterdir() if p.is_file()) == ["ring.png"]


def test_painted_masks_join_with_those_that_are_there(folder):
    left = Image.new("L", (64, 48))
    left.paste(255, (0, 0, 32, 48))
    top = Image.new("RGBA", (32, 24), (255, 255, 255, 0))
    top.paste((255, 255, 255, 255), (0, 0, 32, 12))
    file = folder / "ring-masklabel.png"
    at = [(8, 8), (56, 8), (8, 40), (56, 40)]  # left top, right top, left bottom, right bottom
    for mode, expected in (
        ("fill", [255, 0, 255, 0]), ("replace", [255, 255, 0, 0]), ("add", [255, 255, 255, 0]),
        ("subtract", [0, 0, 255, 0]), ("within", [255, 0, 0, 0]),
    ):  # fmt: skip
        left.save(file)
        report = run(Mask, folder, by="painted", painted=address(top), mode=mode)
        assert report.facts["changed"] == (mode != "fill")
        found = grey(file)
        assert [found[y, x] for x, y in at] == expected, mode
    file.unlink()
    run(Mask, folder, by="painted", painted=address(top), mode="subtract")
    assert [grey(file)[y, x] for x, y in at] == [0, 0, 255, 255]


def test_a_mask_is_grown_softened_and_turned_round(folder):
    file = folder / "ring-masklabel.png"
    run(Mask, folder, by="whole")
    assert (grey(file) == 255).all()
    point = Image.new("L", (64, 48))
    point.putpixel((30, 20), 255)
    point.save(file)
    run(Mask, folder, by="there", grow=3, invert=True)
    found = 255 - grey(file)
    assert found[20, 33] == found[17, 30] == 255
    assert not found[20, 34]
    assert not found[17, 33]
    run(Mask, folder, by="there", soften=2, invert=True)
    assert 0 < grey(file)[20, 34] < 255


def test_masks_get_no_masks(folder):
    run(Mask, folder, by="whole")
    run(Mask, folder, by="whole")
    assert sorted(p.name for p in folder.glob("*.png")) == ["ring-masklabel.png", "ring.png"]


def test_wrong_settings_are_refused(folder):
    for work, values, says in (
        (Mask, {"by": "painted"}, "painted: expected what was painted"),
        (Mask, {"by": "alpha", "painted": "x.png"}, "painted: expected by = painted"),
        (Mask, {"by": "there", "mode": "add"}, "mode = add"),
        (Mask, {"by": "whole", "mask_suffix": None}, "mask_suffix"),
        (Background, {"to": "blau"}, "to = blau: expected a colour"),
        (Background, {"by": "remover", "remover": "u3net"}, "remover = u3net: expected u2net"),
        (Background, {"by": "alpha", "to": "transparent"}, "expected a colour beside by = alpha"),
    ):
        with pytest.raises(Mistake, match=says):
            build(work, {"folder": folder, **values})
    for painted, says in (
        ("data:image/jpeg;base64,AA", "expected a PNG, as data:image/png"),
        ("data:image/png;base64,AAAA", "expected a PNG that can be read"),
        ("nowhere.png", "nowhere.png"),
    ):
        with pytest.raises(Mistake, match=says):
            run(Mask, folder, by="painted", painted=painted)
    wide = address(Image.new("L", (64, 20), 255))
    assert "64x20 pixels, and the picture 64x48" in run(
        Mask, folder, by="painted", painted=wide).facts["left"][0]["what"]  # fmt: skip
