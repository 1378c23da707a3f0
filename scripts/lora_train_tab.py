"""The WebUI's door: run at its start and on Reload UI. What it opens is lora_train.hosts.webui.tab."""

from modules import script_callbacks

from lora_train.hosts.webui import late, tab
from lora_train.hosts.webui.section import Section as Section  # the WebUI takes scripts by their class
from lora_train.hosts.webui.send import SendButton
from lora_train.hosts.webui.settings import settings

script_callbacks.on_ui_settings(settings)
script_callbacks.on_ui_tabs(tab.tabs)
script_callbacks.on_after_component(SendButton().after_component)
script_callbacks.on_app_started(tab.started)
script_callbacks.on_app_started(late.started)
script_callbacks.on_before_ui(late.ready)
script_callbacks.on_cfg_denoiser(late.stepped)
