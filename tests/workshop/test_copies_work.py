"""Mirrored, turned and cut out copies: their pixels, captions and masks, and none of a copy."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.workshop.flip import Flip, mirrored
from lora_train.workshop.journal import Journal
from lora_train.workshop.split import Split, divided, grid
from tests.workshop.folders import content

NOISE = np.random.default_rng(5).integers(0, 256, (20, 30, 4), dtype=np.uint8)


def run(work, folder, **values):
    return build(work, {"folder": folder, **values}).run().facts


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "a girl, left hand raised, looking to the right",
            "a girl, right hand raised, looking to the left",
        ),
        ("left_hand, RIGHT eye, Left", "right_hand, LEFT eye, Right"),
        ("upright, copyright, bright, leftovers", "upright, copyright, bright, leftovers"),
        ("all right, right now, left over", "all right, right now, left over"),
        ("左を見る, 右手", "右を見る, 左手"),
        ("left-handed", "right-handed"),
    ],
)
def test_left_and_right_change_places(before, after):
    assert mirrored(before) == after
    assert mirrored(after) == before


@pytest.mark.parametrize(
    ("turn", "end", "truth"),
    [("mirror", "flip", lambda a: a[:, ::-1]), ("upside_down", "vflip", lambda a: a[::-1]),
     ("90", "r90", lambda a: np.rot90(a, -1)), ("180", "r180", lambda a: np.rot90(a, 2)),
     ("270", "r270", np.rot90)],
)  # fmt: skip
def test_copies_are_turned_with_their_masks(folder, turn, end, truth):
    Image.fromarray(NOISE).save(folder / "a.webp", lossless=True, exact=True)
    Image.fromarray(NOISE[..., 0].copy()).save(folder / "a-masklabel.png")
    (folder / "a.txt").write_text("left")
    before = content(folder)
    facts = run(Flip, folder, turn=turn)
    assert facts["changed"] == 1
    assert np.array_equal(np.asarray(Image.open(folder / f"a_{end}.webp")), truth(NOISE))
    assert np.array_equal(np.asarray(Image.open(folder / f"a_{end}-masklabel.png")), truth(NOISE[..., 0]))
    assert (folder / f"a_{end}.txt").read_text() == ("right" if turn == "mirror" else "left")
    if turn != "mirror":
        assert facts["touched"][0]["what"].endswith("its caption says left or right")
    assert before.items() <= content(folder).items()
    again = run(Flip, folder, turn=turn)
    assert (again["changed"], len(again["left"])) == (0, 1)
    Journal(folder).undo()
    assert content(folder) == before


def test_pictures_themselves_are_turned_where_that_is_asked(folder):
    Image.fromarray(NOISE).save(folder / "a.png")
    (folder / "a.txt").write_bytes("左を見る少女、笑顔".encode("cp932"))
    (folder / "a.caption").write_bytes("to the left".encode("utf-16"))
    before = content(folder)
    run(Flip, folder, in_place=True)
    assert np.array_equal(np.asarray(Image.open(folder / "a.png")), NOISE[:, ::-1])
    assert (folder / "a.txt").read_bytes().decode("cp932") == "右を見る少女、笑顔"
    assert (folder / "a.caption").read_bytes().decode("utf-16") == "to the right"
    Journal(folder).undo()
    assert content(folder) == before
    with pytest.raises(Mistake, match="expected one"):
        run(Flip, folder, in_place=True, turn="90 180")


def test_captions_may_keep_their_sides(folder):
    Image.fromarray(NOISE).save(folder / "a.png")
    (folder / "a.txt").write_text("left")
    run(Flip, folder, sides=False)
    assert (folder / "a_flip.txt").read_text() == "left"


# ── sheets ──


def sheet(boxes, size, ground):
    image = Image.new("RGB", size, ground)
    noise = np.random.default_rng(6).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    for box in boxes:
        image.paste(Image.fromarray(noise).crop(box), box[:2])
    return image


LAYOUTS = {
    "one row": [(10, 10, 110, 210), (130, 20, 230, 200), (250, 10, 350, 210)],
    "two rows": [(5, 5, 105, 105), (120, 5, 220, 105), (5, 120, 220, 220)],
    "a large one and two": [(10, 10, 160, 250), (180, 10, 300, 110), (180, 130, 300, 250)],
    "no rim": [(0, 0, 100, 100), (120, 0, 220, 100)],
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("ground", ["white", "black", (200, 180, 90)])
def test_sheets_are_cut_along_what_is_empty(name, ground):
    boxes = LAYOUTS[name]
    size = (
        max(b[2] for b in boxes) + 12 * (name != "no rim"),
        max(b[3] for b in boxes) + 12 * (name != "no rim"),
    )
    assert divided(np.asarray(sheet(boxes, size, ground)), 8, 16) == boxes


def test_parts_have_captions_and_masks_and_words_are_left_out(folder):
    boxes = LAYOUTS["two rows"]
    image = sheet(boxes, (240, 260), "white")
    ImageDraw.Draw(image).text((10, 240), "front, side, back", fill="black")
    image.save(folder / "sheet one.png")
    mask = Image.new("L", image.size)
    mask.paste(255, boxes[1])
    mask.save(folder / "sheet one-masklabel.png")
    (folder / "sheet one.txt").write_text("a duck")
    (folder / "sheet one.npz").write_bytes(b"cache")
    before = content(folder)
    facts = run(Split, folder, remove=True)
    assert facts["touched"][0]["what"] == "3 pictures: sheet one_1.png to sheet one_3.png"
    names = [f"sheet one_{n}{end}" for n in (1, 2, 3) for end in ("-masklabel.png", ".png", ".txt")]
    assert sorted(content(folder)) == sorted(names)
    for number, box in enumerate(boxes, 1):
        part = np.asarray(Image.open(folder / f"sheet one_{number}.png"))
        assert np.array_equal(part, np.asarray(image.crop(box)))
        white = np.asarray(Image.open(folder / f"sheet one_{number}-masklabel.png")).mean()
        assert white == (255 if number == 2 else 0)
    Journal(folder).undo()
    assert content(folder) == before


def test_a_sheet_stays_unless_it_is_to_go(folder):
    sheet(LAYOUTS["no rim"], (220, 100), "white").save(folder / "a.png")
    before = content(folder)
    run(Split, folder)
    assert before.items() <= content(folder).items()
    facts = run(Split, folder)
    assert facts["changed"] == 0
    assert "a_1.png is there already" in facts["left"][0]["what"]


def test_a_picture_is_done_whole_or_not_at_all(folder):
    """One of several copies cannot be made: none is."""
    sheet(LAYOUTS["two rows"], (240, 240), "white").save(folder / "a.png")
    Image.fromarray(NOISE).save(folder / "a_3.png")
    before = content(folder)
    assert run(Split, folder, names=["a.png"])["left"][0]["what"].startswith("a_3.png is there already")
    assert content(folder) == before
    (folder / "a.txt").write_bytes(b"\x00\xff left")
    before = content(folder)
    assert len(run(Flip, folder, in_place=True, names=["a.png"])["left"]) == 1
    assert content(folder) == before


def test_a_grid_is_cut_as_it_is_said(folder):
    assert grid((100, 50), 2, 3) == [(0, 0, 33, 25), (33, 0, 67, 25), (67, 0, 100, 25),
                                     (0, 25, 33, 50), (33, 25, 67, 50), (67, 25, 100, 50)]  # fmt: skip
    Image.fromarray(NOISE).save(folder / "a.png")
    run(Split, folder, rows=1, columns=2)
    assert np.array_equal(np.asarray(Image.open(folder / "a_2.png")), NOISE[:, 15:])
    with pytest.raises(Mistake, match="columns = 0"):
        run(Split, folder, rows=2)


def test_a_single_picture_is_no_sheet(folder):
    Image.fromarray(NOISE).save(folder / "a.png")
    Image.new("RGB", (200, 100), "white").save(folder / "blank.png")
    before = content(folder)
    assert run(Split, folder)["changed"] == 0
    assert content(folder) == before
