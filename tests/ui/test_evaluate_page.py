"""The room Evaluate in a browser: a sheet is planned, drawn, looked at, stopped and gone on with."""

import io
import pathlib

import fake
import fake_sheets
import pytest
from PIL import Image
from test_page import (  # noqa: F401 (fixtures)
    SCREENS,
    browser,
    eventually,
    opened,
    table,
)

from lora_train.blocks import BlockWeights
from lora_train.run.sheets import offered
from tests.plots.conftest import files  # noqa: F401 (a fixture)
from tests.tiny import TinyHost

FILES = [f"/webui/models/Lora/{name}.safetensors" for name in fake_sheets.FILES]


def trained(desk):
    desk.files = [{"name": "okara", "files": FILES}]


def finished(desk):
    trained(desk)
    plan = {"values": {"network_weights": FILES, "x": "strength: 0-1:0.5", "prompt": "a cat", "score": True}}
    desk.sheets["okara-strength"] = {
        **fake_sheets.sheet_of(), "asked": {**plan, "job": {}, "run": "okara", "what": "plan"}
    }  # fmt: skip
    desk.sheets["okara-blocks"] = fake_sheets.blocks_of_sheet()


def entered(opened, *args, **more):  # noqa: F811
    page = opened(*args, **more)
    page.locator("#lt_tab_evaluate").click()
    page.wait_for_selector(".lt-sheet-plan .lt-axes")
    return page


def shown(page, name):
    page.locator(".lt-evaluate > details > summary").click()
    row = page.locator(".lt-evaluate .lt-entry", has_text=name)
    row.get_by_role("button").first.click()
    page.wait_for_selector(".lt-sheet .lt-shot img:not(.lt-base)")


def look(desk):
    return [("", {}), *(one for one in desk.asked if one[0] == "look sheet")][-1]


def test_a_sheet_is_planned_and_fills_in_as_cells_arrive(opened):  # noqa: F811
    opened.before = [trained]
    page = entered(opened)
    assert page.locator(".lt-sheet-plan .lt-chip", has_text="×").count() == 3  # the newest run's files
    page.wait_for_selector("text=Write a prompt to draw.")
    page.locator("#lt_sheet_prompt").fill("okara in the snow\nokara at night")
    page.wait_for_selector("text=6 × 3 = 18 cells · 21 pictures to draw at most · about 0:53")
    _, values, job, run = look(opened.desk)
    assert (values["x"], values["score"], values["network_weights"]) == (
        "strength: 0, 0.4-1.2:0.2",
        True,
        FILES,
    )
    assert (job, run) == ({}, "okara")
    page.get_by_label("Down (Y)", exact=True).select_option("cfg")
    page.get_by_label("Down (Y): values").fill("3, 7")
    eventually(page, lambda: look(opened.desk)[1].get("y") == "cfg: 3, 7")
    page.get_by_label("Across (X): values").fill("a")
    page.wait_for_selector("text=expected numbers such as 0, 0.5, 1")
    button = page.get_by_role("button", name="Draw the sheet")
    assert button.is_disabled()
    page.get_by_label("Across (X): values").fill("0, 1")
    page.wait_for_selector("text== 18 cells")
    button.click()
    page.wait_for_selector("text=Drawing picture 6 of 21 … · 0:40 left")
    assert page.locator(".lt-sheet .lt-shot").count() == 5
    assert page.locator(".lt-sheet .lt-wait").count() == 13
    name = "okara-strength-cfg"
    opened.desk.sheets[name] |= {"cells": fake_sheets.sheet_of(9)["cells"], "count": 9}
    opened.desk.drawn |= {"done": 9}
    eventually(page, lambda: page.locator(".lt-sheet .lt-shot").count() == 9)
    opened.desk.sheets[name] |= fake_sheets.sheet_of()
    opened.desk.drawn |= {"done": 21, "state": "done", "suggestion": fake_sheets.TEXT}
    page.wait_for_selector(".lt-sheet td.lt-best >> text=suggested")
    assert page.locator(".lt-sheet .lt-shot").count() == 18
    assert page.locator(".lt-sheet .lt-told").inner_text() == fake_sheets.TEXT


def test_the_files_of_a_run_that_has_ended_are_taken_up(opened):  # noqa: F811
    opened.before = [trained]
    page = entered(opened)
    assert page.locator(".lt-sheet-plan .lt-chip", has_text="×").count() == 3
    page.locator("#lt_tab_train").click()
    opened.desk.files = [{"name": "style", "files": [FILES[0].replace("okara", "style")]}, *opened.desk.files]
    opened.desk.run_ = fake.run_of(520, name="style", state="done", result={**fake.RESULT, "name": "style"})
    page.locator(".lt-end").get_by_role("button", name="Evaluate").click()
    chips = page.locator(".lt-sheet-plan .lt-chip", has_text="×")
    eventually(page, lambda: chips.all_inner_texts() == ["style-000002 ×"])
    assert page.locator("#lt_sheet_files option").all_inner_texts()[1:3] == ["style (1)", "okara (3)"]


def test_a_training_setting_is_an_axis_of_the_settings_in_the_form(opened):  # noqa: F811
    page = entered(opened)
    page.wait_for_selector("text=Choose LoRA files")
    page.locator("#lt_sheet_prompt").fill("a cat")
    page.get_by_label("Down (Y)", exact=True).select_option(label="A training setting…")
    page.get_by_label("Down (Y): setting").fill("network.alpha")
    page.get_by_label("Down (Y): values").fill("1, 8")
    eventually(page, lambda: opened.desk.asked and look(opened.desk)[1].get("y") == "network.alpha: 1, 8")
    assert look(opened.desk)[2]["network.dim"]  # of what stands in Train
    assert look(opened.desk)[3] is None


def test_a_cell_is_seen_in_full_and_goes_to_txt2img(opened):  # noqa: F811
    opened.before = [finished]
    page = entered(opened)
    shown(page, "okara-strength")
    page.get_by_label("difference to the base picture").check()
    assert page.locator(".lt-grid.lt-differs .lt-shot .lt-base").first.is_visible()
    page.get_by_role("button", name="strength 0.8, okara", exact=True).click()
    cell = page.locator("dialog.lt-cell")
    assert cell.locator("h3").inner_text() == "strength 0.8, okara"
    assert "okara <b>in</b> the snow<lora:okara:1>" in cell.locator("pre").inner_text()
    cell.get_by_role("button", name="the difference").click()
    assert cell.locator(".lt-full.lt-differs .lt-base").is_visible()
    page.keyboard.press("ArrowLeft")
    assert cell.locator("h3").inner_text() == "strength 0.6, okara"
    cell.get_by_role("button", name="Send to txt2img").click()
    assert cell.count() == 0
    assert "Seed: 202" in page.locator("#txt2img_prompt textarea").input_value()
    heat = page.get_by_role("region", name="Scores").or_(page.locator("section[aria-label=Scores]"))
    assert heat.locator("td.lt-best").inner_text() == "0.7 suggested"


def test_what_lies_over_the_page_is_opaque_where_blocks_are_transparent(opened):  # noqa: F811
    opened.before = [finished]
    page = entered(opened)
    theme = ":root { --block-background-fill: transparent; --body-background-fill: #fff }"  # as the WebUI's
    page.add_style_tag(content=theme)
    shown(page, "okara-strength")
    page.locator(".lt-sheet td.lt-best .lt-shot").click()
    page.wait_for_selector("dialog.lt-cell img:not(.lt-base)")
    for what in ("dialog.lt-cell", ".lt-grid thead th"):
        back = f"getComputedStyle(document.querySelector('#lora_train {what}')).backgroundColor"
        assert page.evaluate(back) == "rgb(255, 255, 255)"


def test_the_suggestion_is_said_in_japanese_from_its_facts(opened):  # noqa: F811
    opened.before = [finished]
    page = entered(opened, "light&ja")
    sheet = opened.desk.sheets["okara-strength"]
    wanted = "おすすめ: okara を強度 0.8 で。 測った中で最も良い値です。 "
    wanted += "検証用の画像 7 枚での損失 0.102（なし 0.142） · 見た目の距離 2.2（なし 2.4）"
    shown(page, "okara-strength")
    assert page.locator(".lt-sheet .lt-told").inner_text() == wanted
    row = page.locator(".lt-evaluate .lt-entry", has_text="okara-strength")
    assert row.locator("p.lt-hint").inner_text() == wanted
    numbers = {"loss": {"here": 0.1, "full": 0.3, "bare": 0.142}}
    sheet["suggestion"] |= {
        "verdict": "overfit",
        "numbers": numbers,
        "of": "9 training pictures",
        "held": False,
    }
    row.get_by_role("button").first.click()
    page.wait_for_function(
        "document.querySelector('.lt-sheet .lt-told').textContent.includes('強度1では 0.3')"
    )
    text = page.locator(".lt-sheet .lt-told").inner_text()
    assert text.endswith("損失は学習した画像で測ったもので、学習しすぎは表れません。")
    assert "学習画像 9 枚での損失 0.1（強度1では 0.3、なし 0.142）" in text


def test_what_was_cut_off_goes_on_and_a_plan_is_taken_up_again(opened):  # noqa: F811
    opened.before = [finished]
    page = entered(opened)
    opened.desk.sheets["okara-strength"] |= {"state": "stopped", "axes": [], "cells": [], "count": 0}
    page.locator(".lt-evaluate > details > summary").click()
    page.locator(".lt-entry", has_text="okara-strength").get_by_role("button", name="Open").click()
    page.wait_for_selector("text=It was not drawn to its end.")
    page.get_by_role("button", name="Go on").click()
    eventually(
        page, lambda: opened.desk.asked and opened.desk.asked[-1][:2] == ("plan sheet", "okara-strength")
    )
    asked = opened.desk.asked[-1]
    assert (asked[2]["x"], asked[4]) == ("strength: 0-1:0.5", "okara")
    opened.desk.drawn |= {"state": "stopped"}
    opened.desk.sheets["okara-strength"] |= {"state": "stopped"}
    page.get_by_role("button", name="Change its plan").click()
    assert page.get_by_label("Across (X): values").input_value() == "0-1:0.5"
    assert page.locator("#lt_sheet_prompt").input_value() == "a cat"
    assert page.locator("#lt_sheet_name").input_value() == "okara-strength"


def test_a_sheet_is_deleted_after_a_question(opened):  # noqa: F811
    opened.before = [finished]
    page = entered(opened)
    shown(page, "okara-strength")
    row = page.locator(".lt-evaluate .lt-entry", has_text="okara-strength")
    row.get_by_role("button", name="Delete").click()
    row.get_by_role("button", name="Yes, delete").click()
    eventually(page, lambda: page.locator(".lt-evaluate .lt-entry").count() == 1)
    assert opened.desk.asked[-1] == ("remove sheet", "okara-strength")
    assert not page.locator("section.lt-sheet").is_visible()


def test_blocks_are_looked_at_one_by_one(opened):  # noqa: F811
    opened.before = [finished]
    page = entered(opened)
    page.locator("#lt_sheet_prompt").fill("a cat")
    page.get_by_role("button", name="Blocks, one by one").click()
    eventually(page, lambda: look(opened.desk)[1].get("analyze") == "17ALL")
    assert look(opened.desk)[1]["x"] == "block_strength: 0"
    page.get_by_label("Direction").select_option("on")
    eventually(page, lambda: look(opened.desk)[1].get("y") == "block_id: 17ALL")
    assert (look(opened.desk)[1]["x"], look(opened.desk)[1]["others"]) == ("block_strength: 1", 0)
    shown(page, "okara-blocks")
    rows = page.locator("section[aria-label=Blocks] tbody tr")
    assert rows.count() == 17
    assert rows.first.inner_text().split()[:2] == ["IN05", "0"]


def test_block_weights_are_bars_and_the_text_is_the_same_value(opened):  # noqa: F811
    page = opened()
    page.locator("details.lt-settings > summary").click()
    row = page.locator('.lt-row[data-path="network.block_weights"]')
    row.get_by_role("button", name="Blocks… block_weights").click()
    text, bars = row.locator("input[type=text]").first, row.locator(".lt-bar-of input")
    row.locator(".lt-unet .lt-bar-of").first.wait_for()
    assert bars.count() == 26
    row.get_by_role("button", name="OUTALL").click()
    assert text.input_value() == "OUTALL"
    assert row.get_by_label("IN04").input_value() == "0"
    row.get_by_label("OUT05").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert text.input_value() == "1,0,0,0,0,0,0,0,1,1,0.05,1,1,1,1,1,1"
    row.get_by_label("IN00").focus()  # a list of 17 has no such block
    page.keyboard.press("End")
    found = BlockWeights.parse(text.input_value())
    assert len(text.input_value().split(",")) == 26
    assert (found.strength("unet", "input_blocks.0.0"), found.strength("unet", "output_blocks.5.0.x")) == (
        1,
        0.05,
    )
    text.fill("1,0,0,0,0.5,0,0,0,0,0,0,0|IN05-OUT05:attn:0.5")
    assert row.get_by_label("IN08").input_value() == "0.5"
    row.get_by_label("M00").focus()
    page.keyboard.press("End")
    assert text.input_value() == "1,0,0,0,0.5,1,0,0,0,0,0,0|IN05-OUT05:attn:0.5"
    row.locator("summary").click()
    row.get_by_label("Name of the preset").fill("MINE")
    row.get_by_role("button", name="Save").click()
    row.get_by_role("button", name="MINE").wait_for()
    assert "MINE:1,0,0,0,0.5,1,0,0,0,0,0,0" in (opened.desk.book.file).read_text(encoding="utf-8")


def test_a_sheet_of_a_real_desk_is_drawn(browser, files, tmp_path):  # noqa: F811
    """From the page to the pictures and back, with no canned answer between."""
    from lora_train.run.desk import Desk

    desk = Desk(TinyHost(tmp_path), TinyHost(tmp_path).folders)
    assert desk.folders.loras == files
    with fake.served(tmp_path, "standalone", desk=desk) as (url, _):
        page = browser.new_page()
        page.set_default_timeout(20_000)
        page.goto(url)
        page.locator("#lt_tab_evaluate").click()
        page.locator("#lt_sheet_files").select_option(str(files / "one.safetensors"))
        page.locator("#lt_sheet_prompt").fill("a cat --w 64 --h 64 --s 4")
        page.get_by_label("Across (X): values").fill("0, 1")
        page.locator("#lt_axis_y").select_option("seed")
        page.get_by_label("Down (Y): values").fill("5, 6")
        page.wait_for_selector("text=2 × 2 = 4 cells · 4 pictures to draw at most")
        page.get_by_role("button", name="Draw the sheet").click()
        eventually(page, lambda: page.locator(".lt-sheet .lt-shot").count() == 4)
        page.wait_for_selector("text=Neither the loss nor the looks were measured")  # no run is known of it
        images = "[...document.querySelectorAll('.lt-shot img:not(.lt-base)')]"
        page.wait_for_function(f"() => {images}.every((image) => image.naturalWidth === 64)")
        zero, one = (page.locator(".lt-sheet td:has(.lt-shot)").nth(i).locator(".lt-scores") for i in (0, 1))
        assert "0 %" in zero.inner_text().splitlines()
        assert "0 %" not in one.inner_text().splitlines()
        page.locator("#lt_axis_x").select_option("block_weights")  # the plan changes, and its name
        page.get_by_label("Across (X): values").fill("NONE, ALL")
        page.wait_for_selector("text=2 × 2 = 4 cells · 6 pictures")
        page.get_by_role("button", name="Draw the sheet").click()
        page.wait_for_selector("h3:has-text('one-block_weights-seed')")
        done = lambda: desk.sheets.view()["state"] == "done"  # noqa: E731
        eventually(page, lambda: desk.sheets.view()["name"] == "one-block_weights-seed" and done())
        page.reload()
        page.wait_for_selector("h3:has-text('one-block_weights-seed')")
        page.wait_for_selector("text=2 × 2 = 4 cells · 6 pictures")
        before = desk.sheets.drawing
        page.get_by_role("button", name="Draw the sheet").click()  # the same again: the same sheet
        eventually(page, lambda: desk.sheets.drawing is not before and done())
        assert desk.sheets.drawing.course.drawn == 0
        page.locator(".lt-evaluate > details > summary").click()
        eventually(page, lambda: page.locator(".lt-evaluate .lt-entry").count() == 2)
        page.context.close()
    desk.close(10)


def test_every_axis_and_setting_of_a_sheet_is_there_in_japanese(tmp_path):
    found = offered([], tmp_path)
    axes = [axis[key] for axis in found["axes"] for key in ("title", "help") if axis["name"] != "sampler"]
    own = ("network_weights", "x", "y", "z", "prompt", "analyze", "others")  # fields of the page's own
    missing = {*axes, *(row["help"] for row in found["settings"] if row["path"] not in own)} - table()
    assert not missing, missing


def _planned(page):
    page.locator("#lt_sheet_prompt").fill("okara in the snow")
    page.locator("#lt_axis_y").select_option("block_weights")
    page.locator(".lt-axes button:visible").first.click()
    page.wait_for_selector(".lt-unet .lt-bar-of")
    page.wait_for_selector(".lt-sheet-plan .lt-numbers:has-text('18')")


def _sheet(page):
    shown(page, "okara-strength")


def _blocks(page):
    shown(page, "okara-blocks")


def _cell(page):
    shown(page, "okara-strength")
    page.locator(".lt-sheet td.lt-best .lt-shot").click()
    page.wait_for_selector("dialog.lt-cell img:not(.lt-base)")


STATES = {"plan": _planned, "sheet": _sheet, "cell": _cell, "blocks": _blocks}


@pytest.mark.parametrize("state", STATES)
def test_it_fits_a_wide_and_a_narrow_screen(opened, state):  # noqa: F811
    opened.before = [finished]
    for width, theme, language in (
        (1440, "light", "en"),
        (1440, "dark", "ja"),
        (390, "dark", "en"),
        (390, "light", "ja"),
    ):
        page = entered(opened, f"{theme}&{language}", width=width)
        STATES[state](page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if SCREENS:
            page.wait_for_timeout(800)
            shot = Image.open(io.BytesIO(page.screenshot(full_page=state != "cell")))
            file = pathlib.Path(SCREENS, f"evaluate-{state}-{width}-{theme}-{language}.png")
            shot.convert("RGB").quantize(64).save(file, optimize=True)
        page.context.close()
