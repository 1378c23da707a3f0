"""The room Dataset in a browser, on a real desk and a real folder: filtered, captioned, cropped, undone."""

import io
import pathlib
import shutil

import fake
import pytest
from PIL import Image, ImageDraw
from test_page import SCREENS, browser, eventually  # noqa: F401 (browser is a fixture)

from lora_train.data import memory
from lora_train.knobs import settings
from lora_train.run import small
from lora_train.ui.demo import HERE
from lora_train.workshop import opened as shelf
from tests.tiny import TinyHost

CAPTIONS = {"a1": "okara, sitting, snow", "a2": "okara, smile", "a10": "okara, snow, <b>scarf</b>"}
MANY = """async () => {
    const item = (i) => ({ name: `${i}.png`, path: "none", size: [64, 64], bytes: 1, changed: 1, caption: "x",
        captioned: true, problems: [], loss: null });
    const some = (begin, count) => ({ total: 100000,
        items: [...Array(count).keys()].map((i) => item(begin + i)) });
    const items = (begin, count) => new Promise((done) => setTimeout(() => done(some(begin, count)), 5));
    const nothing = () => {};
    const made = loraTrain.gallery({ items, names: nothing, shown: nothing, changed: nothing, edit: nothing,
        typed: nothing });
    made.element.id = "lt_many";
    document.querySelector(".lt-workshop").before(made.element);
    await made.again(false);
    let most = 0;
    for (let i = 1; i <= 60; i++) {
        made.element.scrollTop = (made.element.scrollHeight * i) / 60;
        await new Promise((done) => setTimeout(done, 16));
        most = Math.max(most, made.element.querySelectorAll(".lt-frame").length);
    }
    return most;
}"""
ENGLISH, LONG = "en-US", 20_000  # milliseconds


@pytest.fixture(autouse=True)
def own(monkeypatch, tmp_path):
    """Nothing of another test is remembered."""
    for module in (memory, small, shelf):
        monkeypatch.setattr(module, "usual", lambda: tmp_path / "cache" / "pictures.sqlite")
    monkeypatch.setattr(shelf, "_shelf", {})


@pytest.fixture
def folder(tmp_path):
    """Five pictures; the fourth has no caption, and the fifth is none."""
    home = tmp_path / "10_my okara é"
    home.mkdir()
    for i, (name, size) in enumerate(
        {"a1": (640, 480), "a2": (512, 512), "a10": (300, 900), "b": (96, 96)}.items()
    ):
        picture = Image.new("RGB", size, (200, 60 * i, 90))
        ImageDraw.Draw(picture).ellipse((20, 20, size[0] - 20, size[1] - 20), fill=(250, 230, 40 * i))
        picture.save(home / f"{name}.png")
    (home / "broken.png").write_bytes(b"\x89PNG none")
    for name, text in CAPTIONS.items():
        (home / f"{name}.txt").write_text(text, encoding="utf-8")
    return home


@pytest.fixture
def room(browser, tmp_path):  # noqa: F811
    """room(folder, query, width) -> the page with the folder opened. Errors of the page fail the test."""
    from lora_train.run.desk import Desk

    errors, desk = [], Desk(TinyHost(tmp_path), TinyHost(tmp_path).folders)
    with fake.served(tmp_path, "standalone", desk=desk) as (url, _):

        def room(folder=None, query="", width=1440):
            locale = "ja-JP" if "ja" in query else ENGLISH
            context = browser.new_context(viewport={"width": width, "height": 900}, locale=locale)
            context.set_default_timeout(LONG)
            page = context.new_page()
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(f"{url}?{query}")
            page.locator("#lt_tab_dataset").click()
            if folder is not None:
                page.locator("#lt_dataset_folder").fill(str(folder))
                page.locator("#lt_dataset_folder").press("Enter")
                page.wait_for_selector(".lt-frame img[src]")
            return page

        yield room
    desk.close(10)
    assert not errors


def names(page):
    """Of the pictures that are there, in their order."""
    name = "f.querySelector('.lt-file-name')?.textContent"
    frames = page.locator(".lt-frame").evaluate_all(f"all => all.map(f => [f.ariaPosInSet * 1, {name}])")
    return [name for _, name in sorted(frames)]


def shown(page, *expected):
    eventually(page, lambda: names(page) == [*expected])


def at(page, name):
    page.locator(".lt-frame", has_text=name).first.click()
    page.wait_for_selector(f".lt-inspected h3:text-is('{name}')")


def text(folder, name):
    return (folder / f"{name}.txt").read_text(encoding="utf-8")


def settled(page, holds):
    """What the disk says, once the page has had its time."""
    eventually(page, holds)


def side(page, name):
    page.locator(f'[data-side="{name}"]').click()


def work(page, name):
    page.locator(f'.lt-works [data-work="{name}"]').click()
    return page.locator(".lt-work-form")


def test_an_empty_room_teaches_and_opens_the_folder_of_the_form(room, folder):
    page = room()
    assert page.locator(".lt-dataset .lt-teach").is_visible()
    page.get_by_role("button", name="From the Train form").click()
    page.wait_for_selector("text=No folder is named there yet.")
    page.evaluate("path => loraTrain.draft.set('data.train_data_dir', path)", str(folder.parent))
    page.get_by_role("button", name="From the Train form").click()
    page.wait_for_selector("text=5 pictures · 3 with captions")  # in a folder within it
    assert page.get_by_label("folders within it, too").is_checked()
    assert not page.locator(".lt-dataset .lt-teach").is_visible()
    page.locator(".lt-opening [aria-busy]").wait_for(state="detached")
    page.locator("#lt_dataset_folder").fill(str(folder / "none"))
    page.locator("#lt_dataset_folder").press("Enter")
    page.wait_for_selector(".lt-opening .lt-refused")


def test_pictures_come_in_order_and_one_is_looked_at(room, folder):
    page = room(folder)
    shown(page, "a1.png", "a2.png", "a10.png", "b.png", "broken.png")
    page.locator(".lt-frame", has_text="a10.png").get_by_text("300×900 → 256×832").wait_for()
    page.wait_for_selector("text=of 75 tokens")
    assert page.locator(".lt-model-reads").inner_text() == CAPTIONS["a1"]
    assert page.locator(".lt-tag").count() == 3
    box = page.locator(".lt-crop-box")
    assert box.evaluate("e => e.style.height") == "100%"  # 640x480 loses something of its width or nothing
    for key, name in (
        ("ArrowRight", "a2.png"),
        ("End", "broken.png"),
        ("Home", "a1.png"),
        ("ArrowDown", "broken.png"),
    ):
        page.keyboard.press(key)
        page.wait_for_selector(f".lt-inspected h3:text-is('{name}')")
    page.wait_for_selector(".lt-inspected .lt-warn:visible")  # it cannot be read, and that is said
    page.get_by_label("Order").select_option("smallest")
    eventually(page, lambda: names(page)[1:3] == ["b.png", "a2.png"])


def test_a_filter_is_typed_proposed_and_refused(room, folder):
    page = room(folder)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "lt_dataset_filter"
    page.keyboard.type("sno")
    page.locator(".lt-words li", has_text="snow").wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    shown(page, "a1.png", "a10.png")
    assert "2 of 5" in page.locator(".lt-filter").inner_text()
    page.keyboard.press("Enter")  # and back to the pictures
    page.keyboard.type("-sitting")
    shown(page, "a10.png")
    page.locator("#lt_dataset_filter").fill("(snow")
    page.wait_for_selector(".lt-filter .lt-refused:visible")
    page.locator("#lt_dataset_filter").fill("nothing like it")
    page.get_by_role("button", name="Show all").click()
    shown(page, "a1.png", "a2.png", "a10.png", "b.png", "broken.png")
    side(page, "tags")
    page.locator(".lt-side-panel .lt-chip", has_text="<b>scarf</b>").click(modifiers=["Shift"])
    shown(page, "a1.png", "a2.png", "b.png", "broken.png")


def test_one_caption_is_edited_by_chips_by_words_and_by_keys(room, folder):
    page = room(folder)
    at(page, "a1.png")
    page.locator(".lt-tag", has_text="sitting").get_by_role("button", name="Remove").click()
    settled(page, lambda: text(folder, "a1") == "okara, snow")
    page.get_by_label("Add tags").fill("close-up, snow, 1girl")
    page.keyboard.press("Enter")
    settled(page, lambda: text(folder, "a1") == "okara, snow, close-up, 1girl")
    page.locator(".lt-tag-name", has_text="1girl").focus()
    page.keyboard.press("Alt+ArrowLeft")
    settled(page, lambda: text(folder, "a1") == "okara, snow, 1girl, close-up")
    page.keyboard.press("Delete")
    settled(page, lambda: text(folder, "a1") == "okara, snow, close-up")
    page.wait_for_selector(".lt-model-reads:text-is('okara, snow, close-up')")  # and all stays where it is
    page.locator(".lt-tag", has_text="close-up").drag_to(page.locator(".lt-tag", has_text="okara"))
    settled(page, lambda: text(folder, "a1") == "close-up, okara, snow")
    page.locator(".lt-gallery").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Control+A")
    page.keyboard.type("A wooden cat sits in the snow.")
    assert page.locator(".lt-tag").first.is_hidden()  # a sentence is not cut into tags
    page.keyboard.press("Control+Enter")
    settled(page, lambda: text(folder, "a1") == "A wooden cat sits in the snow.")
    page.get_by_label("Caption", exact=True).fill("kept by going on")
    page.keyboard.press("Alt+PageDown")
    settled(page, lambda: text(folder, "a1") == "kept by going on")
    page.wait_for_selector(".lt-inspected h3:text-is('a2.png')")
    at(page, "b.png")  # which had no caption
    page.get_by_label("Caption", exact=True).fill("a small one")
    page.get_by_role("button", name="Save", exact=True).click()
    settled(page, lambda: (folder / "b.txt").is_file() and text(folder, "b") == "a small one")
    page.wait_for_selector("text=5 pictures · 4 with captions")


def test_many_are_changed_at_once_undone_and_done_again(room, folder):
    page = room(folder)
    page.locator(".lt-frame", has_text="a1.png").click()
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowRight")
    assert "With the 2 chosen" in page.locator(".lt-scope").inner_text()
    page.keyboard.press("Control+A")
    assert "With all 5" in page.locator(".lt-scope").inner_text()
    form = work(page, "captions")
    form.locator('[data-path="add"] input').fill("wood")
    form.locator('[data-path="remove"] input').fill("okara")
    page.wait_for_selector(".lt-coming >> text=of 5 pictures will be changed.")
    form.locator("summary", has_text="What becomes of them").click()
    assert "<b>scarf</b>" in form.locator(".lt-examples").inner_text()
    before = {name: text(folder, name) for name in CAPTIONS}
    assert before == CAPTIONS  # nothing is done by looking
    form.locator(".lt-main").click()
    page.wait_for_selector("text=pictures were changed.")
    after = {name: words.replace("okara, ", "") + ", wood" for name, words in CAPTIONS.items()}
    assert {name: text(folder, name) for name in CAPTIONS} == after
    side(page, "changes")
    page.locator(".lt-changes li", has_text="captions · 5 files").wait_for()
    page.locator(".lt-gallery").focus()
    page.keyboard.press("Control+z")
    settled(page, lambda: {name: text(folder, name) for name in CAPTIONS} == CAPTIONS)
    eventually(page, lambda: page.get_by_role("button", name="Redo: captions").is_enabled())
    page.keyboard.press("Control+Shift+z")
    settled(page, lambda: {name: text(folder, name) for name in CAPTIONS} == after)
    page.get_by_role("button", name="Undo: captions").click()
    settled(page, lambda: {name: text(folder, name) for name in CAPTIONS} == CAPTIONS)
    (folder / "a1.txt").write_text("mine", encoding="utf-8")  # another program's
    page.get_by_role("button", name="Redo: captions").click()
    page.wait_for_selector(".lt-workbar .lt-refused:visible")
    assert text(folder, "a1") == "mine"


def test_the_report_is_looked_at_filters_and_mends(room, folder):
    page = room(folder)
    shutil.copy(folder / "a2.png", folder / "a3.png")
    (folder / "gone.txt").write_text("no picture", encoding="utf-8")
    side(page, "report")
    page.get_by_role("button", name="Look for problems").click()
    page.locator('[data-kind="unreadable"]').wait_for()
    kinds = page.locator(".lt-kind").evaluate_all("all => all.map(e => e.dataset.kind)")
    assert {"unreadable", "tiny", "same", "missing", "orphan"} <= {*kinds}
    assert page.locator(".lt-frame", has_text="broken.png").locator(".lt-bad").is_visible()
    page.locator('[data-kind="tiny"] .lt-plain').click()
    shown(page, "b.png")
    page.get_by_role("button", name="Mend … The same file twice").click()
    shown(page, "a2.png", "a3.png")
    assert "With the 1 chosen" in page.locator(".lt-scope").inner_text()
    page.wait_for_selector("text=1 of 1 pictures will be changed.")
    page.locator(".lt-work-form .lt-main").click()
    settled(page, lambda: not (folder / "a3.png").exists())
    assert (folder / "a2.png").exists()
    page.get_by_role("button", name="Undo: put aside").click()
    settled(page, lambda: (folder / "a3.png").is_file())


def test_a_picture_is_cropped_by_hand_and_is_itself_again_after_undo(room, folder):
    page, before = room(folder), (folder / "a1.png").read_bytes()
    at(page, "a1.png")
    page.get_by_role("button", name="Crop …").click()
    canvas = page.locator(".lt-cropping")
    canvas.locator("img").evaluate("image => image.decode()")
    box = canvas.bounding_box()

    def to(x, y):
        page.mouse.move(box["x"] + x / 640 * box["width"], box["y"] + y / 480 * box["height"], steps=4)

    grip = canvas.locator('[data-grip="se"]').bounding_box()
    page.mouse.move(grip["x"] + 5, grip["y"] + 5)
    page.mouse.down()
    to(500, 400)
    page.mouse.up()
    dialog = page.locator("dialog.lt-hand")
    fields = [dialog.get_by_label(name, exact=True) for name in ("left", "top", "width", "height")]
    assert abs(int(fields[2].input_value()) - 500) < 25
    for field, value in zip(fields, (100, 50, 320, 240), strict=True):
        field.fill(str(value))
        field.press("Tab")
    dialog.get_by_label("Shape").select_option("1:1")
    assert [field.input_value() for field in fields] == ["140", "50", "240", "240"]
    page.locator(".lt-crop-frame").focus()
    page.keyboard.press("ArrowRight")
    assert fields[0].input_value() == "146"
    with Image.open(folder / "a1.png") as image:
        truth = image.convert("RGB").crop((146, 50, 386, 290)).tobytes()
    dialog.get_by_role("button", name="Crop it").click()
    settled(page, lambda: (folder / "a1.png").read_bytes() != before)
    with Image.open(folder / "a1.png") as image:
        assert image.convert("RGB").tobytes() == truth
    page.wait_for_selector(".lt-inspected >> text=240 × 240")
    page.locator(".lt-gallery").focus()
    page.keyboard.press("Control+z")
    settled(page, lambda: (folder / "a1.png").read_bytes() == before)
    page.wait_for_selector(".lt-inspected >> text=640 × 480")


def test_a_mask_is_painted_and_goes_on_where_it_was(room, folder):
    page, mask = room(folder), folder / "a2-masklabel.png"

    def stroke(y):
        page.get_by_role("button", name="Mask …").click()
        page.locator(".lt-painting img").evaluate("image => image.decode()")
        page.wait_for_timeout(300)
        box = page.locator(".lt-painting canvas").bounding_box()
        page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + y * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + y * box["height"], steps=4)
        page.mouse.up()
        page.get_by_role("button", name="Save the mask").click()
        page.locator("dialog").wait_for(state="detached")

    at(page, "a2.png")
    stroke(0.25)
    with Image.open(mask) as image:
        assert (image.size, image.mode) == ((512, 512), "L")
        assert [image.getpixel(at) for at in ((256, 128), (256, 384), (10, 10))] == [255, 0, 0]
    at(page, "a2.png")
    stroke(0.75)
    with Image.open(mask) as image:
        assert [image.getpixel(at) for at in ((256, 128), (256, 384), (256, 256))] == [255, 255, 0]
    page.locator(".lt-gallery").focus()
    for _ in range(2):
        page.keyboard.press("Control+z")
        page.wait_for_timeout(300)
    settled(page, lambda: not mask.exists())


def test_a_hundred_thousand_pictures_scroll(room, folder):
    """The gallery alone, before answers of its own: what is drawn does not grow with what there is."""
    page = room(folder)
    most = page.evaluate(MANY)
    assert most < 120
    page.locator("#lt_many .lt-frame[aria-posinset='100000'] .lt-file-name:text-is('99999.png')").wait_for()
    page.locator("#lt_many").focus()
    page.keyboard.press("Home")
    page.locator("#lt_many .lt-frame.lt-at[aria-posinset='1'] .lt-file-name:text-is('0.png')").wait_for()


def test_what_is_done_to_pictures_is_said_in_japanese(room):
    from lora_train.run.bench import offered
    from lora_train.workshop import WORKS

    own = {"folder", "recursive", "follow_links", "caption_extension", "only", "names", "dry_run"}
    said = {f"{name} (what it does)": work.said() for name, work in WORKS.items()}
    for name, work in WORKS.items():
        rows = [offered(name, s) for s in settings(work) if s.path not in own]
        said |= {f"{name}.{row['path']}": row["help"] for row in rows}
    beside = ("undo", "redo", "history")  # which have no form
    said = {path: text for path, text in said.items() if not path.startswith(beside)}
    missing = room(None, "ja").evaluate(
        "said => Object.keys(said).filter((path) => loraTrain.helpedIn(said[path]) === said[path])", said
    )
    assert not missing


# ── how it looks ──


@pytest.fixture
def drawings(tmp_path):
    """The demo's, with some of them spoilt."""
    home = tmp_path / "okara" / "10_ink style"
    shutil.copytree(HERE / "dataset" / "10_ink style", home)
    (home / "bear.txt").unlink()
    (home / "cactus.txt").write_text("", encoding="utf-8")
    (home / "fire.png").write_bytes((home / "fire.png").read_bytes()[:900])
    shutil.copy(home / "fox.png", home / "fox (2).png")
    shutil.copy(home / "fox.txt", home / "fox (2).txt")
    with Image.open(home / "frog.png") as image:
        image.resize((96, 96)).save(home / "frog.png")
    long = ", ".join(f"lamp in the corner {i}" for i in range(14))
    (home / "automobile.txt").write_text(f"automobile, ink style, {long}", encoding="utf-8")
    return home.parent


def shot(page, name, words, width):
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if SCREENS:
        page.wait_for_timeout(500)
        page.evaluate(
            r"scrollTo(0, 0); document.getElementById('lt_dataset_folder').value &&= 'D:\\lora\\okara'"
        )
        room = page.locator("dialog[open]").or_(page.locator("#lt_room_dataset")).last
        image = Image.open(io.BytesIO(room.screenshot())).convert("RGB").quantize(64)
        image.save(pathlib.Path(SCREENS, f"dataset-{name}-{words}.png"), optimize=True)


@pytest.mark.parametrize(("query", "width"), [("", 1440), ("dark&ja", 390), ("dark&ja", 1440), ("", 390)])
def test_it_fits_a_wide_and_a_narrow_screen(room, drawings, query, width):
    words = f"{width}-{'dark' if 'dark' in query else 'light'}-{'ja' if 'ja' in query else 'en'}"
    page = room(None, query, width)
    shot(page, "empty", words, width)
    page.locator("#lt_dataset_folder").fill(str(drawings))
    page.locator("#lt_dataset_folder").press("Enter")
    page.wait_for_selector(".lt-model-reads s")
    eventually(page, lambda: page.locator(".lt-frame img[src]").count() > 5)
    shot(page, "open", words, width)
    side(page, "report")
    page.locator(".lt-side-panel:visible .lt-main").click()
    page.wait_for_selector(".lt-kind")
    shot(page, "report", words, width)
    side(page, "tags")
    page.locator(".lt-side-panel:visible .lt-chip").nth(2).wait_for()
    page.locator('.lt-frame[aria-posinset="3"] .lt-tick').evaluate("tick => tick.click()")
    page.locator('.lt-frame[aria-posinset="5"]').click(modifiers=["Shift"])
    form = work(page, "captions")
    form.locator('[data-path="add"] input').fill("black and white")
    form.locator('[data-path="trigger_word"] input').fill("inkx")
    page.wait_for_selector(".lt-examples li")
    shot(page, "captions", words, width)
    side(page, "picture")
    page.locator(".lt-inspected .lt-line > .lt-button", has_text="…").first.click()
    page.locator(".lt-cropping img").evaluate("image => image.decode()")
    page.locator(".lt-hand select").select_option("3:4")
    shot(page, "crop", words, width)
