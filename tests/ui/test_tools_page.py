"""The room Tools in a browser, before a real desk: tools are chosen, run, and their reports used."""

import io
import json
import pathlib
import re

import fake
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, safe_open, save_file
from test_page import SCREENS, browser, eventually  # noqa: F401 (browser is a fixture)

from lora_train.tools import TOOLS
from lora_train.ui.guard import Guard
from lora_train.ui.page import ROOT
from tests.tiny import TinyHost

LAYERS = {  # of an SD 1.x UNet and text encoder, few and thin
    "lora_te_text_model_encoder_layers_0_mlp_fc1": (3072, 768),
    "lora_te_text_model_encoder_layers_5_self_attn_q_proj": (768, 768),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (320, 320),
    "lora_unet_down_blocks_1_attentions_1_transformer_blocks_0_attn2_to_k": (640, 768),
    "lora_unet_down_blocks_2_attentions_0_transformer_blocks_0_ff_net_2": (1280, 5120),
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q": (1280, 1280),
    "lora_unet_up_blocks_1_attentions_2_transformer_blocks_0_attn1_to_v": (1280, 1280),
    "lora_unet_up_blocks_2_attentions_0_transformer_blocks_0_attn2_to_q": (640, 640),
    "lora_unet_up_blocks_3_attentions_1_transformer_blocks_0_attn2_to_out_0": (320, 320),
}
TAGS = ["okara", "sitting", "snow", "1girl", "outdoors", "<b>scarf</b>", "mountain", "close-up", "smile"]
TEXTS = {
    "ss_network_dim": "8", "ss_network_alpha": "4", "ss_network_module": "networks.lora",
    "ss_base_model_version": "sd_v1", "ss_learning_rate": "0.0001", "ss_max_train_steps": "520",
    "ss_tag_frequency": json.dumps({"10_okara": {tag: 20 - 2 * i for i, tag in enumerate(TAGS)}}),
    "ss_dataset_dirs": json.dumps({"10_okara": {"n_repeats": 10, "img_count": 20}}),
    "ss_bucket_info": json.dumps({"buckets": {"0": {"resolution": [512, 512], "count": 200}}}),
    "modelspec.trigger_phrase": "okara", "modelspec.title": "okara",
}  # fmt: skip


def lora(file, rank=8, seed=0):
    draw, tensors = torch.Generator().manual_seed(seed), {}
    for i, (key, (out, inn)) in enumerate(LAYERS.items()):
        tensors[f"{key}.lora_up.weight"] = 0.01 * (1 + i % 4) * torch.randn(out, rank, generator=draw)
        tensors[f"{key}.lora_down.weight"] = 0.05 * torch.randn(rank, inn, generator=draw)
        tensors[f"{key}.alpha"] = torch.tensor(rank / 2)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file, metadata=TEXTS)
    return file


@pytest.fixture
def desk(tmp_path):
    from lora_train.run.desk import Desk

    desk = Desk(TinyHost(tmp_path), TinyHost(tmp_path).folders)
    lora(desk.folders.loras / "okara.safetensors")
    lora(desk.folders.loras / "styles" / "ink.safetensors", seed=1)
    yield desk
    desk.close(10)


@pytest.fixture
def room(browser, desk, tmp_path):  # noqa: F811
    """room(query, width) -> the page with the room Tools open. Errors of the page fail the test."""
    errors, made = [], []

    def room(query="", width=1440, host="standalone"):
        if not made:
            made.append(fake.served(tmp_path, host, desk=desk))
            room.url = made[0].__enter__()[0]
        context = browser.new_context(
            viewport={"width": width, "height": 900}, permissions=["clipboard-read", "clipboard-write"],
            locale="ja-JP" if "ja" in query else "en-US")  # fmt: skip
        context.set_default_timeout(15_000)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{room.url}?{query}")
        page.locator("#lt_tab_tools").click()
        page.wait_for_selector(".lt-bench .lt-chip")
        return page

    yield room
    for one in made:
        one.__exit__(None, None, None)
    assert not errors


def tool(page, name):
    page.locator(".lt-bench .lt-chip", has_text=re.compile(f"^{name}$")).first.click()
    return page.locator(f'.lt-tool .lt-bench[aria-label="{name}"]')


def field(form, path):
    return form.locator(f'[data-path="{path}"]')


def done(page, state="done"):
    page.wait_for_selector(f".lt-outcome h3:has-text('· {state}')")
    return page.locator(".lt-outcome")


def test_every_tool_has_a_card_with_its_settings(room):
    page = room()
    assert page.locator(".lt-bench > .lt-prompts .lt-chip").count() == len(TOOLS)
    for name in TOOLS:
        title = name.replace("-", " ").capitalize()
        form = tool(page, title)
        assert form.locator("[data-path]").count() > 2, name
        assert form.get_by_role("button", name="Run it").is_enabled()


def test_a_file_is_chosen_resized_and_inspected(room, desk):
    page = room()
    form = tool(page, "Resize")
    field(form, "model").get_by_role("button", name="Choose").click()
    page.get_by_role("searchbox", name="Search").fill("oka")
    page.locator(".lt-picker").get_by_role("button", name="okara.safetensors").click()
    path = field(form, "model").locator("input").input_value()
    assert path == str(desk.folders.loras / "okara.safetensors")
    save = field(form, "save_to").locator("input")
    eventually(page, lambda: save.input_value().endswith("okara-resized.safetensors"))
    eventually(page, lambda: "Will be written" in form.locator(".lt-coming").inner_text())
    field(form, "new_rank").locator("input").fill("0")
    page.wait_for_selector('[data-path="new_rank"].lt-wrong')
    assert "expected 1 to 4096" in field(form, "new_rank").inner_text()
    field(form, "new_rank").locator("input").fill("4")
    page.wait_for_selector('[data-path="new_rank"]:not(.lt-wrong)')
    form.get_by_role("button", name="Run it").click()
    report = done(page)
    written = load_file(desk.folders.loras / "okara-resized.safetensors")
    assert written[f"{next(iter(LAYERS))}.lora_down.weight"].shape[0] == 4
    report.get_by_role("button", name="Inspect").click()
    page.wait_for_selector(".lt-outcome h3:has-text('Inspect · done')")
    assert "rank 4" in report.locator(".lt-facts").inner_text()
    page.reload()  # another look finds both the form and the report
    page.wait_for_selector(".lt-outcome h3:has-text('Inspect · done')")
    assert "okara-resized" in page.locator('[data-path="model"] input').input_value()


def test_what_inspect_finds_can_be_used(room, desk):
    page = room()
    form = tool(page, "Inspect")
    field(form, "model").locator("input").fill(str(desk.folders.loras / "okara.safetensors"))
    field(form, "base").get_by_role("button", name="The loaded one").click()
    assert field(form, "base").locator("input").input_value() == "tiny.safetensors"
    field(form, "base").locator("input").fill("")
    form.get_by_role("button", name="Run it").click()
    report = done(page)
    assert report.locator(".lt-courses li").count() == 8
    chips = report.get_by_role("region", name="Trained on").locator(".lt-chip")
    assert chips.count() == len(TAGS)
    assert "<b>scarf</b> 10" in chips.nth(5).inner_text()
    chips.nth(1).click()
    eventually(page, lambda: page.evaluate("navigator.clipboard.readText()") == "sitting")
    report.locator("summary", has_text="Every layer").click()
    eventually(page, lambda: report.locator("details tbody tr").count() == len(LAYERS))
    report.get_by_role("button", name="Use its settings").click()
    assert page.locator("#lt_tab_train").get_attribute("aria-selected") == "true"
    eventually(page, lambda: page.evaluate("loraTrain.draft.values['network.dim']") == 8)


def test_metadata_are_edited_in_the_file(room, desk):
    page, file = room(), desk.folders.loras / "okara.safetensors"
    before = load_file(file)
    form = tool(page, "Metadata")
    field(form, "model").locator("input").fill(str(file))
    form.get_by_role("button", name="Run it").click()
    report = done(page)
    report.get_by_role("button", name="Edit modelspec.title").click()
    report.get_by_label("modelspec.title", exact=True).fill("Okara, = the <cat>, and more")
    report.get_by_role("button", name="Remove ss_learning_rate").click()
    report.get_by_label("New entry").fill("modelspec.author")
    report.get_by_label("Its value").fill("me")
    report.get_by_role("button", name="Add").click()
    assert "3 changed" in report.inner_text()
    report.get_by_role("button", name="Save into the file").click()
    report.get_by_role("button", name="Yes, save").click()
    page.wait_for_selector(".lt-outcome .lt-file")
    with safe_open(file, "pt") as opened:
        texts = opened.metadata()
    assert texts["modelspec.title"] == "Okara, = the <cat>, and more"
    assert texts["modelspec.author"] == "me"
    assert "ss_learning_rate" not in texts
    after = load_file(file)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_files_are_merged_as_chips_and_the_card_is_written(room, desk):
    page = room()
    form = tool(page, "Merge")
    box = field(form, "models")
    for name in ("okara.safetensors", "styles/ink.safetensors"):
        box.locator("input[type=text]").fill(str(desk.folders.loras / name))
        box.locator("input[type=text]").press("Enter")
    assert box.locator("li").count() == 2
    field(form, "ratios").locator("input").fill("0.5, 0.25")
    save = field(form, "save_to").locator("input")
    eventually(page, lambda: save.input_value().endswith("okara-merged.safetensors"))
    form.get_by_role("button", name="Run it").click()
    done(page)
    made = load_file(desk.folders.loras / "okara-merged.safetensors")
    assert made[f"{next(iter(LAYERS))}.lora_down.weight"].shape[0] == 16
    form = tool(page, "Card")
    field(form, "model").locator("input").fill(str(desk.folders.loras / "okara.safetensors"))
    field(form, "description").locator("input").fill("a cat of wood")
    form.get_by_role("button", name="Run it").click()
    page.wait_for_selector(".lt-outcome h3:has-text('Card · done')")
    assert json.loads((desk.folders.loras / "okara.json").read_text())["description"] == "a cat of wood"


def test_a_report_is_in_japanese_but_for_its_numbers(room, desk):
    folder = desk.folders.loras
    values = {
        "model": f"{folder / 'okara.safetensors'}",
        "new_rank": 4,
        "save_to": f"{folder / 'small.safetensors'}",
    }
    desk.use_tool("resize", values, Guard(desk.folders).path)
    page = room("ja")
    text = page.locator(".lt-outcome pre.lt-lines")
    text.wait_for()
    assert re.search(r"small\.safetensors: \d+ 層、ランク 4～4、平均 4\.0", text.inner_text())
    assert re.search(r"ノルムの [\d.]+% を保持、誤差 [\d.]+%", text.inner_text())


def test_a_dropped_path_and_a_dropped_file_are_taken(room, desk):
    page = room()
    form = tool(page, "Inspect")
    input = field(form, "model").locator("input")
    drop = """([node, make]) => { const data = new DataTransfer(); eval(make);
        node.dispatchEvent(new DragEvent('drop', {bubbles: true, cancelable: true, dataTransfer: data})) }"""
    for make, end in (
        ("data.setData('text/uri-list', 'file:///x/a%20b.safetensors')", "/x/a b.safetensors"),
        (f"data.items.add(new File([new Uint8Array({size(desk)})], 'ink.safetensors'))", "ink.safetensors"),
    ):
        page.evaluate(drop, [input.element_handle(), make])
        eventually(page, lambda end=end: input.input_value().endswith(end))
    page.evaluate(drop, [input.element_handle(), "data.items.add(new File(['x'], 'none.safetensors'))"])
    page.wait_for_selector("text=A browser does not say where none.safetensors lies")


def size(desk):
    return (desk.folders.loras / "styles" / "ink.safetensors").stat().st_size


def test_what_a_tool_refuses_is_said_and_another_page_sees_it(room, desk):
    first, second = room(), room()
    bad = desk.folders.loras / "bad.safetensors"
    bad.write_bytes(b"\xff" * 64)
    form = tool(first, "Inspect")
    form.get_by_role("button", name="Run it").click()
    first.wait_for_selector('[data-path="model"].lt-wrong')
    field(form, "model").locator("input").fill(str(bad))
    form.get_by_role("button", name="Run it").click()
    for page in (first, second):
        assert "bad.safetensors" in done(page, "failed").inner_text()


@pytest.mark.parametrize(("query", "width"), [("", 1440), ("dark&ja", 390), ("dark", 1440), ("ja", 390)])
def test_it_fits_a_wide_and_a_narrow_screen(room, desk, query, width):
    page = room(query, width)
    tools = page.locator(".lt-bench > .lt-prompts .lt-chip")
    words = f"{width}-{'dark' if 'dark' in query else 'light'}-{'ja' if 'ja' in query else 'en'}"
    for name, kind in (("merge", "merge"), ("inspect", "inspect")):
        tools.nth(list(TOOLS).index(kind)).click()
        if kind == "merge":
            box = page.locator('[data-path="models"] input[type=text]')
            for file in ("okara.safetensors", "styles/ink.safetensors"):
                box.fill(str(desk.folders.loras / file))
                box.press("Enter")
            page.wait_for_selector(".lt-coming p")
        else:
            page.locator('[data-path="model"] input').fill(str(desk.folders.loras / "okara.safetensors"))
            page.locator(".lt-tool .lt-main").click()
            page.wait_for_selector(".lt-outcome .lt-facts")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if SCREENS:
            page.wait_for_timeout(300)
            shot = Image.open(io.BytesIO(page.locator("#lt_room_tools").screenshot()))
            shot = shot.convert("RGB").quantize(64)
            shot.save(pathlib.Path(SCREENS, f"tools-{name}-{words}.png"), optimize=True)


def test_every_word_of_the_tools_is_there_in_japanese():
    from lora_train.knobs import settings
    from lora_train.run.bench import offered

    texts = "".join(
        (ROOT / "javascript" / f"lora_train_1_words{end}.js").read_text() for end in ("", "_tools")
    )
    there = {json.loads(f'"{word}"') for word in re.findall(r'"((?:[^"\\]|\\.)*)":', texts)}
    words = set()
    for name, tool in TOOLS.items():
        rows = [offered(name, s) for s in settings(tool)]
        words |= {name.replace("-", " ").capitalize(), " ".join(tool.about.split())}
        words |= {row["help"] for row in rows}
        words |= {row["group"][0].upper() + row["group"][1:] for row in rows if not row["basic"]}
    room = (ROOT / "javascript" / "lora_train_9_tools.js").read_text()
    words |= set(re.findall(r': "([^"]+)"', room.split("const TITLES = {")[1].split("};")[0]))
    assert not words - there, words - there
