"""Our section of the WebUI's settings page, and what the owner of the machine has chosen there."""

from __future__ import annotations

import pathlib

from lora_train.hosts.webui.folders import DESK, LORAS, SENT, folders, remote
from lora_train.run.recipes import BALANCED, BUILTIN
from lora_train.run.rules import Rules

SECTION = ("lora_train", "LoRA training")  # the WebUI has a section Training
FOLDERS = (
    (LORAS, "Folder for finished LoRAs", "empty: where the WebUI looks for LoRAs"),
    (DESK, "Folder for the queue, presets and demo pictures", "empty: lora_train in the data folder"),
    (SENT, "Folder that the button Send to dataset fills", "empty: pictures/sent in the folder above"),
)
PRESET = ("lora_train_preset", "Preset that a new tab begins with", "")
WEBHOOK = (
    "lora_train_webhook", "Webhook",
    "an address that is told when a run has ended, such as Discord's or Slack's; empty: none")  # fmt: skip
LIMITS = (
    ("lora_train_jobs", "Most jobs in the queue", "0: any number"),
    ("lora_train_steps", "Most steps of a run", "0: any number"),
    ("lora_train_minutes", "Most minutes of a run", "it is then stopped and saved; 0: any number"),
    ("lora_train_gigabytes", "GB of the disk that a run has to leave free", "0: a little"),
)


def rules() -> Rules:
    """As they are set just now.

    Unlike folders they count where other machines can ask as well: the section is not there then, so that
    nobody who asks can set them.
    """
    from modules import shared

    rows = (PRESET, WEBHOOK, *LIMITS)
    return Rules.read({row[0].removeprefix("lora_train_"): shared.opts.data.get(row[0]) for row in rows})


def settings() -> None:
    """For `on_ui_settings`: the section."""
    if remote():
        return
    import gradio as gr
    from modules import shared

    def added(row: tuple[str, str, str], usual: object, *component: object) -> None:
        name, label, info = row
        option = shared.OptionInfo(usual, label, *component, section=SECTION)
        option = option.info(info) if info else option
        shared.opts.add_option(name, option.needs_restart() if name == DESK else option)

    for row in FOLDERS:
        added(row, "")
    added(PRESET, BALANCED, gr.Dropdown, lambda: {"choices": presets()})
    added(WEBHOOK, "")
    for row in LIMITS:
        added(row, 0, gr.Number, {"precision": 0, "minimum": 0})


def presets() -> list[str]:
    own = pathlib.Path(folders().desk, "presets").glob("*.json")
    return [*BUILTIN, *sorted((p.stem for p in own), key=str.lower)]
