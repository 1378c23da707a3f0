"""The page in a browser, before a desk with canned answers: what a person does, and what it then asks."""

import io
import json
import os
import pathlib
import re
import shutil

import fake
import pytest
from PIL import Image

from lora_train.run.presets import BUILTIN, GOALS
from lora_train.run.schema import schema
from lora_train.ui.page import ROOT, assets

OWN = [file for file in assets()[0] if file.name.startswith("lora_train")]
WORDS = [file for file in OWN if "_words" in file.name]
DRAWN = [file for file in OWN if file not in WORDS]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
SCREENS = os.environ.get("SCREENS")  # a folder: pictures of every state are put there


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────


def text(file: pathlib.Path) -> str:
    return file.read_text(encoding="utf-8")


def table() -> set[str]:
    """English words that have Japanese ones."""
    return set(re.findall(r'"((?:[^"\\]|\\.)*)":', "".join(map(text, WORDS))))


def test_every_word_of_the_page_is_there_in_japanese():
    said = {
        word
        for file in DRAWN
        for call in re.findall(r'\bt\(([^()]*?"(?:[^"\\]|\\.)*"[^()]*)', text(file))
        for word in re.findall(r'"((?:[^"\\]|\\.)*)"', call.split(", {")[0])
    } - {"stopped", "failed"}
    groups = [group["title"] for group in schema()["groups"]]
    units = [setting["unit"] for setting in schema()["settings"] if setting["unit"]]
    goals = [goal[key] for goal in GOALS for key in ("title", "text")]
    paces = [word for name, pace in BUILTIN.items() for word in (name, pace.text)]
    missing = {*said, *groups, *units, *goals, *paces} - table() - {""}
    assert not missing, missing


def test_japanese_help_is_of_settings_that_there_are():
    help = next(file for file in WORDS if file.name.endswith("_help.js"))
    paths = set(re.findall(r'^\s*"([a-z_.]+)":', text(help), re.M))
    assert len(paths) > 100
    assert paths <= {setting["path"] for setting in schema()["settings"]}


def test_the_webuis_localization_names_its_language():
    words = json.loads(text(ROOT / "localizations" / "ja_JP.json"))
    assert words["lora-train: language"] == "ja"
    assert all(isinstance(word, str) and word for word in words.values())


@pytest.mark.parametrize("file", OWN, ids=lambda file: file.name)
def test_a_script_is_short_and_puts_no_text_in_as_html(file):
    assert len(text(file).splitlines()) <= 400
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text(file))


def test_every_rule_of_the_style_sheet_stays_on_the_page():
    bare = re.sub(r"/\*.*?\*/", "", text(assets()[1]), flags=re.S)
    heads = re.findall(r"([^{}]+)\{", re.sub(r"@(?:media|supports)[^{]*\{", "", bare))
    for head in heads:
        for part in re.split(r",(?![^(]*\))", head):
            assert part.strip().startswith(("#lora_train", ".dark #lora_train")), part


def test_what_uplot_is_under_lies_beside_it():
    assert "MIT" in text(ROOT / "javascript" / "0_uplot.LICENSE.txt")
    assert "v1.6.32" in text(ROOT / "javascript" / "0_uplot.iife.min.js")[:100]


# ── in a browser ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("uvicorn")
    sync = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs chromium: apt-get install chromium")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    """opened(query, host=…, width=…) -> page; `opened.desk` answers it. Errors of the page fail the test."""
    made, errors = {}, []

    class Opened:
        def __call__(self, query="", *, host="webui", width=1440):
            if host not in made:
                made[host] = fake.served(tmp_path, host)
                self.url, self.desk = made[host].__enter__()
                for change in self.before:
                    change(self.desk)
            context = browser.new_context(viewport={"width": width, "height": 900})
            context.set_default_timeout(10_000)
            page = context.new_page()
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(f"{self.url}?{query}")
            page.wait_for_selector("#lora_train .lt-start", state="attached")
            return page

        before: list = []

    yield Opened()
    for served in made.values():
        served.__exit__(None, None, None)
    assert not errors


def field(page, path):
    return page.locator(f'.lt-fields [data-path="{path}"]:not([hidden])')


def fill(page, tmp_path):
    field(page, "data.train_data_dir").locator("input").fill(str(tmp_path))
    field(page, "output.output_name").locator("input").fill("okara")
    page.wait_for_selector("text=20 pictures × 10 repeats")


def eventually(page, holds):
    for _ in range(100):
        if holds():
            return
        page.wait_for_timeout(50)
    assert holds()


def test_from_the_empty_page_to_start(opened, tmp_path):
    page = opened()
    assert page.locator(".lt-teach").is_visible()
    assert page.get_by_role("button", name="Start training").is_disabled()  # nobody has looked at it yet
    fill(page, tmp_path)
    assert not page.locator(".lt-teach").is_visible()
    page.get_by_role("button", name="Measure").click()
    page.wait_for_selector("text=about 6:51 · peak 8.1 GB · measured step: 0.79 s")
    page.get_by_role("button", name="Start training").click()
    page.wait_for_selector(".lt-run h3:has-text('okara · running')")
    what, values, start = opened.desk.asked[0]
    assert (what, start) == ("add", True)
    assert values["data.train_data_dir"] == str(tmp_path)
    assert values["output.output_name"] == "okara"
    assert values["network.dim"] == 16
    eventually(page, lambda: page.title().startswith("0 % · okara"))
    assert not page.locator(".lt-form").is_visible()  # folded


def test_at_most_twelve_fields_in_the_simple_form(opened):
    page = opened(host="standalone")
    assert page.locator(".lt-fields .lt-field:visible").count() + 1 <= 12  # the goal is one too


def test_a_complaint_stands_beside_its_field_and_a_change_can_be_undone(opened, tmp_path):
    page = opened()
    fill(page, tmp_path)
    rank = field(page, "network.dim")
    rank.locator("input").fill("0")
    eventually(page, lambda: "expected 1 to 512" in rank.inner_text())
    assert rank.locator("input").get_attribute("aria-invalid") == "true"
    assert page.get_by_role("button", name="Start training").is_disabled()
    assert "changed from the preset: 1" in page.locator(".lt-settings summary").inner_text()
    rank.locator(".lt-reset").click()
    eventually(page, lambda: page.get_by_role("button", name="Start training").is_enabled())
    assert rank.locator("input").input_value() == "16"


def test_epochs_and_steps_are_two_views_of_one_length(opened, tmp_path):
    page = opened()
    fill(page, tmp_path)
    field(page, "training.max_train_epochs").locator("input").fill("10")
    eventually(page, lambda: "comes to 520" in field(page, "training.max_train_steps").inner_text())
    field(page, "training.max_train_steps").locator("input").fill("300")
    assert field(page, "training.max_train_epochs").locator("input").input_value() == ""


def test_all_settings_are_there_can_be_searched_and_say_why_they_have_no_effect(opened, tmp_path):
    page = opened()
    fill(page, tmp_path)
    page.locator(".lt-settings > summary").click()
    shown = page.locator(".lt-row")
    eventually(page, lambda: shown.count() == len(schema()["settings"]))
    page.get_by_label("Search the settings").fill("objective.min_snr_gamma")
    assert page.locator(".lt-row:visible").count() == 1
    row = page.locator('.lt-row[data-path="objective.min_snr_gamma"]')
    assert "preset 5" in row.inner_text()
    field(page, "network.train_unet_only").locator("input").uncheck()
    page.get_by_label("Search the settings").fill("text_encoder_lr")
    row = page.locator('.lt-row[data-path="lr.text_encoder_lr"]')
    eventually(page, lambda: "no effect: only the UNet trains" in row.inner_text())
    assert row.locator("input").is_disabled()


def test_a_goal_changes_the_preset_and_leaves_folder_and_name(opened, tmp_path):
    page = opened()
    fill(page, tmp_path)
    page.get_by_label("Style").check()
    eventually(page, lambda: field(page, "network.dim").locator("input").input_value() == "32")
    assert field(page, "output.output_name").locator("input").input_value() == "okara"


def test_a_slider_is_put_together_of_words_and_pictures_wait_aside(opened, tmp_path):
    page = opened()
    fill(page, tmp_path)
    page.get_by_label("Slider").check()
    eventually(page, lambda: field(page, "objective.negative").is_visible())
    assert not field(page, "data.train_data_dir").is_visible()
    assert page.locator(".lt-fields .lt-field:visible").count() + 1 <= 12
    for path, words in (("target", "apple"), ("positive", "red apple"), ("negative", "green apple")):
        page.locator(f'.lt-fields .lt-field:visible[data-path="objective.{path}"] input').fill(words)
    start = page.get_by_role("button", name="Start training")
    eventually(page, start.is_enabled)
    page.locator("#lt_preset").select_option("Fast")  # what was typed stays
    eventually(page, lambda: field(page, "training.max_train_steps").locator("input").input_value() == "250")
    eventually(page, start.is_enabled)
    page.get_by_label("Character").check()
    eventually(page, lambda: field(page, "data.train_data_dir").is_visible())
    assert field(page, "data.train_data_dir").locator("input").input_value() != ""
    assert not page.locator('.lt-fields [data-path="objective.target"]').is_visible()


def test_a_preset_is_kept_under_a_name(opened, tmp_path):
    page = opened()
    field(page, "network.dim").locator("input").fill("24")
    page.locator(".lt-more summary").click()
    page.get_by_role("button", name="Save as…").click()
    page.get_by_label("Name of the preset").fill("mine")
    page.keyboard.press("Enter")
    eventually(page, lambda: page.locator("#lt_preset").input_value() == "mine")
    assert opened.desk.kept.read("mine")["network.dim"] == 24


def test_an_import_fills_the_form_and_says_what_it_left_out(opened, tmp_path):
    page = opened()
    fill(page, tmp_path)
    file = tmp_path / "old.json"
    file.write_text("{}")
    page.locator('input[type="file"]').set_input_files(str(file))
    page.wait_for_selector("text=old.json: left out: <b>x</b>")
    assert field(page, "network.dim").locator("input").input_value() == "8"
    assert field(page, "data.train_data_dir").locator("input").input_value() == str(tmp_path)


def test_a_trigger_word_shows_its_tokens_and_free_words(opened):
    page = opened()
    field(page, "data.trigger_word").locator("input").fill("girl")
    page.wait_for_selector(".lt-tokens >> text=girl is a common word")
    page.locator(".lt-tokens button").first.click()
    assert field(page, "data.trigger_word").locator("input").input_value() != "girl"


def test_a_folder_is_picked(opened, tmp_path):
    (tmp_path / "pictures" / "10_okara").mkdir(parents=True)
    page = opened()
    field(page, "data.train_data_dir").locator("input").fill(str(tmp_path))
    page.get_by_role("button", name="Choose… Pictures").click()
    page.get_by_role("button", name="pictures", exact=True).click()
    page.get_by_role("button", name="10_okara").wait_for()
    page.get_by_role("button", name="Use this folder").click()
    assert field(page, "data.train_data_dir").locator("input").input_value() == str(tmp_path / "pictures")


def test_a_slow_look_is_said_and_nothing_starts_before_it(opened):
    opened.before = [lambda desk: setattr(desk, "slow", 4.0)]
    page = opened()
    page.wait_for_selector("text=Looking at pictures and settings")
    assert page.get_by_role("button", name="Start training").is_disabled()


def test_a_window_of_ones_own_speaks_the_browsers_language(opened, browser):
    opened(host="standalone")
    context = browser.new_context(locale="ja-JP")
    page = context.new_page()
    page.goto(opened.url)
    page.wait_for_selector("text=何を覚えさせますか？")
    context.close()


def test_the_form_survives_a_reload(opened, tmp_path):
    page = opened()
    fill(page, tmp_path)
    page.reload()
    page.wait_for_selector("text=20 pictures × 10 repeats")
    assert field(page, "output.output_name").locator("input").input_value() == "okara"


# ── a run ───────────────────────────────────────────────────────────────────────────────────────────────────


def running(desk):
    desk.run_ = fake.run_of(212)
    desk.entries = [fake.entry_of("1", "okara", "running", step=212), fake.entry_of("2", "next", "waiting")]


def test_any_page_shows_the_run_and_what_files_say_is_only_text(opened):
    opened.before = [running]
    first, second = opened(), opened("dark")
    for page in (first, second):
        page.wait_for_selector(".lt-run .uplot")
        assert "step 212 of 520 · 40 %" in page.locator(".lt-state").inner_text()
        assert page.get_by_role("button", name="Stop & save").is_visible()
    first.locator("summary", has_text="Log").click()
    first.wait_for_selector("text=<script>alert(1)</script>")
    first.get_by_role("button", name="prompt 2").click()
    first.wait_for_selector("text=okara <close-up>")
    opened.desk.run_ = fake.run_of(260)
    for page in (first, second):
        eventually(page, lambda page=page: "step 260 of 520" in page.locator(".lt-state").inner_text())


def test_what_stands_beside_the_loss_is_chosen_of_what_there_is(opened):
    opened.before = [running]
    page = opened()
    page.wait_for_selector(".lt-run .uplot")
    legend = page.locator(".lt-run .u-legend")
    assert "learning rate te1" in legend.inner_text()
    assert "5e-5" in legend.inner_text()
    chooser = page.get_by_label("Beside the loss")
    assert chooser.locator("option").all_inner_texts() == [
        "learning rate",
        "gradient norm",
        "memory",
        "nothing",
    ]
    chooser.select_option("memory")
    assert "8.0 GB" in legend.inner_text()
    chooser.select_option("none")
    assert legend.locator("tr").count() == 3
    page.reload()
    page.wait_for_selector(".lt-run .uplot")
    assert page.get_by_label("Beside the loss").input_value() == "none"


def test_the_element_made_anew_is_drawn_again(opened):
    opened.before = [running]
    page = opened()
    page.wait_for_selector(".lt-run .uplot")
    page.evaluate("""() => { const old = document.getElementById("lora_train"), made = old.cloneNode(false);
                             old.replaceWith(made) }""")
    page.wait_for_selector(".lt-run .uplot")
    assert page.locator("#lora_train .lt-run").count() == 1


def test_the_buttons_of_a_run(opened):
    opened.before = [running]
    page = opened()
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Continue").click()
    page.get_by_role("button", name="Sample now").click()
    page.get_by_role("button", name="Save now").click()
    page.locator(".lt-controls").get_by_role("button", name="Stop", exact=True).click()
    assert not [one for one in opened.desk.asked if one[0] == "stop"]  # it asks first
    page.get_by_role("button", name="Yes, stop").click()
    page.wait_for_selector(".lt-run h3:has-text('stopped')")
    assert [one[0] for one in opened.desk.asked] == ["pause", "go_on", "sample", "save", "stop"]
    assert opened.desk.asked[-1] == ("stop", False)


def test_the_slider_goes_through_the_samples(opened):
    opened.before = [running]
    page = opened()
    page.wait_for_selector(".lt-samples img")
    slider = page.get_by_label("Step of the sample")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert "step 100" in page.locator(".lt-samples .lt-at").inner_text()
    page.get_by_role("button", name="Send to txt2img").click()
    assert "Seed: 0" in page.locator("#txt2img_prompt textarea").input_value()


def test_at_the_end_a_card_with_what_to_do_next(opened):
    opened.before = [running]
    page = opened()
    page.wait_for_selector(".lt-run .uplot")
    page.evaluate("""() => { const sound = document.querySelector("audio");
                             sound.play = async () => { document.body.dataset.sound = "played" } }""")
    opened.desk.run_ = fake.run_of(520, state="done", result=fake.RESULT, unchanged=True)
    page.wait_for_selector("text=okara is finished")
    assert page.title() == "Host"
    assert page.evaluate("document.body.dataset.sound") == "played"
    assert page.locator(".lt-form").is_visible()
    page.get_by_role("button", name="Try in txt2img").click()
    assert page.locator("#txt2img_prompt textarea").input_value() == "okara, <lora:okara:1>"
    assert page.evaluate("document.body.dataset.tab") == "txt2img"


def test_a_sheet_is_drawn_from_the_card_and_shown(opened):
    opened.before = [running]
    page = opened()
    opened.desk.run_ = fake.run_of(520, state="done", result=fake.RESULT, unchanged=True)
    page.get_by_role("button", name="Strength grid").click()
    sheet = page.locator(".lt-sheet")  # in the room Evaluate
    sheet.get_by_text("Drawing picture 4 of 18").wait_for()
    assert ("sheet", "okara", "strengths") in opened.desk.asked
    sheet.get_by_role("heading", name="okara · Strength grid").wait_for()
    eventually(page, lambda: sheet.locator(".lt-shot").count() == 3)
    sheet.get_by_role("button", name="Stop").click()
    eventually(page, lambda: ("stop sheet",) in opened.desk.asked)
    opened.desk.sheets["okara-strengths"] |= {"state": "stopped"}
    opened.desk.drawn |= {"state": "failed", "url": None, "error": "okara: <b>no</b> saved file is there"}
    sheet.get_by_text("okara: <b>no</b> saved file is there").wait_for()
    sheet.get_by_role("button", name="Close").click()
    assert sheet.is_hidden()


def test_what_the_server_says_is_in_the_pages_language(opened):
    def idle(desk):
        running(desk)
        desk.header |= {
            "trainable": False,
            "reason": "no model is loaded; choose a checkpoint at the top of the page",
        }
        desk.entries.append(fake.entry_of("3", "cut", "failed", error="seven: nobody knows this one"))
        desk.run_["note"] = "caching latents: 5 of 28"

    opened.before = [idle]
    page = opened("ja")
    page.wait_for_selector("text=ページ上部でチェックポイントを選んでください")
    page.wait_for_selector("text=画像を読み込んでいます（latent）: 5 / 28")
    page.wait_for_selector("text=seven: nobody knows this one")  # what has no translation stays as it is
    for said, shown in (
        ("network.dim = 0: expected 1 to 512", "network.dim = 0: 1〜512 にしてください"),
        ("a.b = 1: 2: expected a whole number", "a.b = 1: 2: 整数を入力してください"),
        (
            "x: no such file\ny: expected a number",
            "x: そのようなファイルはありません\ny: 数値を入力してください",
        ),
        ("", ""),
    ):
        assert page.evaluate("text => loraTrain.said(text)", said) == shown


def test_no_sign_needs_a_font_of_its_own():
    for file in DRAWN:
        assert not re.search("[\u2600-\u27bf\u23e9-\u23ff\U0001f000-\U0001faff]", text(file)), file.name


def test_after_a_run_its_name_is_not_offered_again(opened, tmp_path):
    page = opened()
    fill(page, tmp_path)
    page.get_by_role("button", name="Start training").click()
    page.wait_for_selector(".lt-run h3:has-text('okara · running')")
    look = opened.desk.look

    def taken(values):
        found = look(values)
        if values["output.output_name"] == "okara":
            line = "output.output_name = okara: it is there already; okara-2 is a free name"
            found["complaints"].append({"path": "output.output_name", "text": line})
        return found

    opened.desk.look = taken
    opened.desk.run_ = fake.run_of(520, state="done", result=fake.RESULT)
    page.wait_for_selector("text=okara is finished")
    eventually(page, lambda: field(page, "output.output_name").locator("input").input_value() == "okara-2")
    eventually(page, lambda: page.get_by_role("button", name="Start training").is_enabled())


def test_a_waiting_job_is_edited_and_ones_own_draft_comes_back(opened, tmp_path):
    opened.before = [running]
    page = opened()
    page.locator(".lt-queue").get_by_role("button", name="Edit").click()
    eventually(page, lambda: field(page, "output.output_name").locator("input").input_value() == "next")
    field(page, "data.train_data_dir").locator("input").fill(str(tmp_path))
    eventually(page, lambda: page.get_by_role("button", name="Save changes").is_enabled())
    page.get_by_role("button", name="Save changes").click()
    eventually(page, lambda: opened.desk.asked and opened.desk.asked[-1][:2] == ("edit", "2"))
    assert opened.desk.asked[-1][2]["network.dim"] == 32
    eventually(page, lambda: field(page, "output.output_name").locator("input").input_value() == "lora")


def test_what_was_cut_off_can_be_taken_up(opened):
    opened.before = [lambda desk: desk.left.append(fake.entry_of("7", "cut", "unfinished", step=212))]
    page = opened()
    page.wait_for_selector("text=cut stopped at step 212 of 520")
    page.get_by_role("button", name="Discard").click()
    page.keyboard.press("Escape")
    assert not opened.desk.asked
    page.get_by_role("button", name="Resume").click()
    eventually(page, lambda: opened.desk.asked == [("resume", "7")])


def test_a_refusal_is_a_sentence_beside_the_button(opened):
    opened.before = [running]
    page = opened()

    def refused():
        raise fake.Mistake("it is being saved just now; try again in a moment")

    opened.desk.save_now = refused
    page.get_by_role("button", name="Save now").click()
    page.wait_for_selector('[role="alert"]:has-text("try again in a moment")')


def test_a_package_is_added(opened):
    page = opened()
    page.locator("summary", has_text="Optional packages").click()
    page.get_by_role("button", name="Add Lion").click()
    page.wait_for_selector("text=Added lion-pytorch 0.2.")
    assert page.get_by_role("button", name="Remove Lion").is_visible()
    assert opened.desk.asked == [("add package", "lion-pytorch")]


def test_ten_thousand_points_keep_it_smooth(opened):
    opened.before = [lambda desk: setattr(desk, "run_", fake.run_of(10_000, steps=20_000))]
    page = opened()
    page.wait_for_selector(".lt-run .uplot")
    took = page.evaluate("""() => { const t = performance.now(), s = loraTrain.status;
        loraTrain.tell("status", {...s, run: {...s.run, points: [[10001, 0.1, 0.1, 1e-4]]}});
        return performance.now() - t }""")
    assert took < 300  # a tenth of it on a machine that is not busy


def test_everything_is_reached_by_keyboard(opened, tmp_path):
    page = opened()
    fill(page, tmp_path)
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.textContent || document.activeElement.type"))
    assert {"Start training", "Add to queue", "Measure", "radio", "checkbox"} <= seen


# ── every state ─────────────────────────────────────────────────────────────────────────────────────────────


def _form(page, tmp_path):
    field(page, "data.train_data_dir").locator("input").fill(r"D:\lora\okara")
    field(page, "output.output_name").locator("input").fill("okara")
    field(page, "data.trigger_word").locator("input").fill("girl")
    page.wait_for_selector(".lt-tokens .lt-warn")
    page.wait_for_selector(".lt-numbers:has-text('520')")


def _settings(page, tmp_path):
    _form(page, tmp_path)
    field(page, "network.dim").locator("input").fill("0")
    page.locator(".lt-settings > summary").click()
    page.locator(".lt-settings input[type=search]").fill("snr")
    page.wait_for_selector(".lt-wrong")


def _slider(page, tmp_path):
    page.locator('input[name="lt_goal"][value="slider"]').check()
    for path, words in (("target", "apple"), ("positive", "red apple"), ("negative", "green apple")):
        page.locator(f'.lt-fields .lt-field:visible[data-path="objective.{path}"] input').fill(words)
    page.wait_for_timeout(600)


def _done(desk):
    memory = {"before": 2300, "during": 8192, "after": 2301}
    desk.run_ = fake.run_of(520, state="done", result=fake.RESULT, unchanged=True, memory=memory)
    desk.header["unchanged"] = True
    desk.left = [fake.entry_of("7", "style-b", "unfinished", step=212)]


STATES = {
    "empty": (None, None),
    "form": (None, _form),
    "slider": (None, _slider),
    "settings": (None, _settings),
    "running": (running, lambda page, tmp_path: page.wait_for_selector(".lt-run .uplot")),
    "done": (_done, lambda page, tmp_path: page.wait_for_selector(".lt-end h3")),
}


@pytest.mark.parametrize("state", STATES)
def test_every_state_fits_a_wide_and_a_narrow_screen_in_both_languages(opened, tmp_path, state):
    before, act = STATES[state]
    opened.before = [before] if before else []
    for width, theme, language in (
        (1440, "light", "en"),
        (1440, "dark", "ja"),
        (390, "dark", "en"),
        (390, "light", "ja"),
    ):
        page = opened(f"{theme}&{language}", width=width)
        assert page.locator("#lora_train").get_attribute("lang") == language
        if act:
            act(page, tmp_path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if SCREENS:
            page.wait_for_timeout(800)
            picture = Image.open(io.BytesIO(page.screenshot(full_page=True)))
            file = pathlib.Path(SCREENS, f"{state}-{width}-{theme}-{language}.png")
            picture.convert("RGB").quantize(64).save(file, optimize=True)
        page.context.close()
