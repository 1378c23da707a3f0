"""The button below txt2img's and img2img's results that puts a picture into a dataset, prompt as caption."""

from __future__ import annotations

import html
import json
import pathlib
import re

from lora_train.emphasis import BREAK, TAG, pieces
from lora_train.hosts.webui.folders import sent
from lora_train.hosts.webui.versions import image_reader, script_argument

BESIDE = "_send_to_extras"
TABS = ("txt2img", "img2img")


class SendButton:
    """Waits for the components of a result panel as the WebUI makes them, and adds one."""

    def __init__(self):
        self.parts: dict[str, object] = {}

    def after_component(self, component: object, **_: object) -> None:
        """For `on_after_component`, which comes while the row around is still open."""
        made = getattr(component, "elem_id", None)
        for tab in TABS:
            if made == tab + BESIDE:
                self.parts[tab] = self._button(tab)
            elif made in (f"{tab}_gallery", f"html_log_{tab}"):
                self.parts[made] = component
            elif made == f"generation_info_{tab}" and tab in self.parts:
                self._wire(tab, component)

    def _button(self, tab: str) -> object:
        from modules.ui_components import ToolButton

        said = "Send the picture to the training dataset, with its prompt as the caption."
        return ToolButton("🎓", elem_id=f"{tab}_send_to_lora_train", tooltip=said)

    def _wire(self, tab: str, info: object) -> None:
        log = self.parts[f"html_log_{tab}"]
        chosen = {script_argument(): "(gallery, info, log) => [gallery, info, selected_gallery_index()]"}
        self.parts[tab].click(
            fn=send, inputs=[self.parts[f"{tab}_gallery"], info, log], outputs=[log], show_progress=False,
            **chosen)  # fmt: skip


def send(gallery: list, info: str, index: int) -> str:
    """Saves the chosen picture, or all where none is chosen; what to show about it."""
    if not gallery:
        return "<p>Nothing to send yet: generate a picture first.</p>"
    from PIL.PngImagePlugin import PngInfo

    image_from_url_text = image_reader()

    try:
        data = json.loads(info)
    except ValueError:
        data = {}
    first, texts = data.get("index_of_first_image", 0), data.get("infotexts", [])
    chosen = [index] if 0 <= index < len(gallery) else range(min(first, len(gallery) - 1), len(gallery))
    folder = sent()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for i in chosen:
            text, note = texts[i] if i < len(texts) else "", PngInfo()
            note.add_text("parameters", text)
            file = folder / f"{free(folder):05d}.png"
            file.with_suffix(".txt").write_text(caption(prompt_of(text)), encoding="utf-8")
            image_from_url_text(gallery[i]).save(file, pnginfo=note)
    except OSError as e:
        return f"<p>{html.escape(str(folder))}: cannot be written ({html.escape(str(e.strerror))}).</p>"
    many = f"{len(chosen)} pictures with their prompts" if len(chosen) > 1 else "the picture with its prompt"
    return f"<p>Sent to {html.escape(str(folder))}: {many}. Choose that folder in the tab Training.</p>"


def prompt_of(infotext: str) -> str:
    """What stands before the negative prompt and the line of settings."""
    return re.split(r"\n(?=Negative prompt: |Steps: \d)", f"\n{infotext}", maxsplit=1)[0].strip()


def caption(prompt: str) -> str:
    """A prompt's words: captions have no weights, no LoRAs and one line."""
    words = "".join(" " if piece == BREAK else piece[0] for piece in pieces(TAG.sub("", prompt)))
    return re.sub(r"(\s*,)+\s*", ", ", re.sub(r"\s+", " ", words)).strip(" ,")


def free(folder: pathlib.Path) -> int:
    """The number after the last one that a file of the folder has."""
    return max((int(p.stem) for p in folder.iterdir() if p.stem.isdecimal()), default=0) + 1
