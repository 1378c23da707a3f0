"""Our section of the WebUI's settings page, on names as the WebUI has them."""

import json
import sys
import types

import pytest

from lora_train.hosts.webui import settings
from lora_train.run.rules import Rules
from lora_train.ui.page import ROOT


class OptionInfo:
    def __init__(self, default=None, label="", component=None, component_args=None, *, section=None):
        self.default, self.label, self.component, self.section = default, label, component, section
        self.args, self.comment = component_args, ""

    def info(self, text):
        self.comment = text
        return self

    def needs_restart(self):
        return self


@pytest.fixture
def webui(tmp_path, monkeypatch):
    """`modules` with nothing but what the section asks for; its options in `.added`."""
    added = {}
    flags = types.SimpleNamespace(
        webui_is_non_local=False, gradio_allowed_path=[], lora_dir=str(tmp_path / "loras"), ckpt_dir=None
    )
    opts = types.SimpleNamespace(data={}, add_option=added.__setitem__)
    holds = {
        "shared": {"cmd_opts": flags, "opts": opts, "OptionInfo": OptionInfo},
        "paths": {"data_path": str(tmp_path), "models_path": str(tmp_path)},
        "sd_models": {"model_path": ""}, "sd_vae": {"vae_path": ""},
    }  # fmt: skip
    package = types.ModuleType("modules")
    monkeypatch.setitem(sys.modules, "modules", package)
    for name, values in holds.items():
        module = types.ModuleType(f"modules.{name}")
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, f"modules.{name}", module)
        setattr(package, name, module)
    component = types.SimpleNamespace(Dropdown="dropdown", Number="number")
    monkeypatch.setitem(sys.modules, "gradio", component)
    return types.SimpleNamespace(added=added, flags=flags, opts=opts, folder=tmp_path)


def test_the_section_has_each_choice_and_its_words_in_japanese(webui):
    (webui.folder / "lora_train" / "presets").mkdir(parents=True)
    (webui.folder / "lora_train" / "presets" / "mine.json").write_text("{}")
    settings.settings()
    assert len(webui.added) == 9
    assert all(option.section == settings.SECTION for option in webui.added.values())
    preset = webui.added["lora_train_preset"]
    assert preset.args() == {"choices": ["Fast", "Balanced", "Thorough", "mine"]}
    words = json.loads((ROOT / "localizations" / "ja_JP.json").read_text(encoding="utf-8"))
    said = {text for option in webui.added.values() for text in (option.label, option.comment) if text}
    assert not {*said, settings.SECTION[1]} - set(words)


def test_what_is_chosen_holds_at_once(webui):
    assert settings.rules() == Rules()
    webui.opts.data |= {
        "lora_train_jobs": 2.0,
        "lora_train_preset": "Fast",
        "lora_train_webhook": " https://x/y ",
    }
    webui.opts.data["lora_train_gigabytes"] = 5
    assert settings.rules() == Rules("Fast", "https://x/y", jobs=2, gigabytes=5.0)


def test_who_asks_from_another_machine_cannot_set_them_and_they_hold(webui):
    webui.flags.webui_is_non_local = True
    webui.opts.data["lora_train_jobs"] = 2
    settings.settings()
    assert not webui.added  # what is no option there is refused by the WebUI's own routes
    assert settings.rules().jobs == 2
