"""The page's panels of what a run's records tell."""

import io
import pathlib

import fake
import pytest
from PIL import Image
from test_page import (  # noqa: F401 (fixtures)
    SCREENS,
    browser,
    eventually,
    opened,
    running,
)


def others(desk):
    running(desk)
    desk.earlier = [
        {"name": name, "state": "done", "step": 400, "steps": 400, "file": "/x", "bytes": 9, "began": 1.7e9}
        for name in ("okara", "okara-r8", "okara-lr3", "style-b")
    ]  # fmt: skip


def fold(page):
    return page.locator(".lt-run details", has=page.locator(".lt-insight"))


def open_it(page):
    fold(page).locator("> summary").click()
    page.wait_for_selector(".lt-insight .lt-shots img")


def test_a_run_that_goes_on_is_told_of_when_it_is_asked(opened):  # noqa: F811
    opened.before = [others]
    page = opened()
    page.wait_for_selector(".lt-run .uplot")
    assert ("insight", "okara") not in opened.desk.asked  # nothing is read before the fold is opened
    open_it(page)
    assert opened.desk.asked.count(("insight", "okara")) == 1
    box = fold(page)
    assert box.locator(".lt-shots li").count() == 12
    first = box.locator(".lt-shots li").first.inner_text()
    assert "× 1.62" in first
    assert "± 0.05 · seen 26 times" in first
    assert "no caption" in first
    assert "<b>okara</b>" in box.locator(".lt-shots li").nth(1).inner_text()
    box.get_by_role("button", name="Show 28 of 28").click()
    assert box.locator(".lt-shots li").count() == 28
    assert box.locator(".lt-courses li").count() == 17
    assert box.locator(".lt-plot .uplot").count() == 1


def test_pictures_by_loss_lead_into_their_folder(opened):  # noqa: F811
    """What stands behind the room's routes is told of in test_dataset_page."""
    opened.before, asked = [others], []
    page = opened()
    row = {"name": "a.png", "path": "/x/a.png", "size": [8, 8], "bucket": [64, 64], "bytes": 9, "changed": 0,
           "caption": "", "captioned": False, "problems": [], "loss": 1.6}  # fmt: skip
    state = {"folder": "/x", "version": 1, "pictures": 1, "captioned": 0, "outside": 0, "undo": None,
             "redo": None, "problems": {}, "sorts": ["name"], "recovered": [], "tags": [], "total": 1,
             "from": 0, "items": [row], "names": ["a.png"]}  # fmt: skip

    def answer(route):
        asked.append((route.request.url.rsplit("/", 1)[1], route.request.post_data_json))
        route.fulfill(json=state)

    page.route(
        "**/dataset/*", lambda route: route.continue_() if "works" in route.request.url else answer(route)
    )
    page.wait_for_selector(".lt-run .uplot")
    open_it(page)
    files = [row["file"] for row in opened.desk.insight("okara")["pictures"]["rows"]]
    fold(page).get_by_role("button", name="Open in Dataset").click()
    eventually(page, lambda: any(sent.get("run") == "okara" for _, sent in asked))
    folder = next(sent["where"]["folder"] for name, sent in asked if name == "open")
    assert all(file.startswith(f"{folder}/") for file in files)
    assert folder.count("/") >= 2


def test_runs_are_laid_side_by_side(opened):  # noqa: F811
    opened.before = [others]
    page = opened()
    open_it(page)
    chips = fold(page).get_by_role("group", name="Runs to compare with")
    chips.get_by_role("button", name="okara-r8").click()
    eventually(page, lambda: opened.desk.asked[-1] == ("compare", "okara", "okara-r8"))
    page.wait_for_selector(".lt-scroll td:has-text('16')")
    assert fold(page).locator(".uplot").count() == 3
    chips.get_by_role("button", name="style-b").click()
    eventually(page, lambda: fold(page).locator(".lt-sums li").count() == 3)
    for name in ("okara-r8", "style-b"):
        chips.get_by_role("button", name=name).click()
    eventually(page, lambda: fold(page).locator(".lt-scroll table").count() == 0)


def test_in_place_of_nothing_stands_why(opened):  # noqa: F811
    from lora_train.run import insight

    opened.before = [others]
    page = opened("ja", host="webui")
    page.wait_for_selector(".lt-run .uplot")
    said = {"said": insight.WORDS.format(kind="erase"), "how": "times", "total": 0, "rows": []}
    opened.desk.told = {"pictures": said, "timesteps": {"said": insight.OLDER, "rows": []},
                        "blocks": {"said": insight.UNLOOKED, "steps": [], "rows": []}}  # fmt: skip
    fold(page).locator("> summary").click()
    page.wait_for_selector("text=erase は画像ではなく言葉から学ぶ")
    assert fold(page).locator(".lt-note:visible").count() == 3
    assert not fold(page).locator(".lt-shots").is_visible()


def test_an_earlier_run_is_told_of_as_well(opened):  # noqa: F811
    opened.before = [others]
    page = opened()
    page.locator("summary", has_text="Earlier runs").click()
    page.locator(".lt-runs .lt-entry", has_text="style-b").locator(
        "summary", has_text="What its records tell"
    ).click()
    eventually(page, lambda: ("insight", "style-b") in opened.desk.asked)
    page.wait_for_selector(".lt-runs .lt-shots img")


@pytest.mark.parametrize(("query", "width"), [("", 1440), ("dark&ja", 390)])
def test_it_fits_a_wide_and_a_narrow_screen(opened, query, width):  # noqa: F811
    opened.before = [others]
    page = opened(query, width=width)
    open_it(page)
    fold(page).locator(".lt-line.lt-prompts button", has_text="okara-lr3").click()
    page.wait_for_selector(".lt-scroll td")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if SCREENS:
        name = "insight-1440-light-en.png" if width > 1000 else "insight-390-dark-ja.png"
        page.wait_for_timeout(800)
        shot = Image.open(io.BytesIO(fold(page).screenshot()))
        shot.convert("RGB").quantize(64).save(pathlib.Path(SCREENS, name), optimize=True)


def test_every_sentence_of_it_is_there_in_japanese():
    from test_said import there

    from lora_train.run import insight

    for said in (insight.EARLY, insight.OLDER, insight.UNLOOKED, insight.WORDS.format(kind="erase")):
        assert there(said), said
    assert fake.insight_of("x")["pictures"]["rows"]
