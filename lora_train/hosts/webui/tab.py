"""The tab Training and its routes. The desk behind them outlives a Reload UI, as the runs on it do."""

from __future__ import annotations

import functools
import secrets
import threading
from typing import TYPE_CHECKING

from lora_train.errors import Mistake
from lora_train.hosts.webui import packages
from lora_train.hosts.webui.folders import folders, remote
from lora_train.ui.api import Api, attach
from lora_train.ui.gate import Gate
from lora_train.ui.guard import Guard
from lora_train.ui.page import root

if TYPE_CHECKING:
    from lora_train.run.desk import Desk

OPENING = threading.Lock()


def tabs() -> list[tuple[object, str, str]]:
    """For `on_ui_tabs`. One element, which our own script draws in: nothing of it lands in ui-config.json."""
    import gradio as gr
    from modules import shared

    base = f"/{shared.cmd_opts.subpath}" if shared.cmd_opts.subpath else ""
    with gr.Blocks(analytics_enabled=False) as page:
        gr.HTML(root("webui", base=base, key=gate(None).key), elem_id="lora_train_page")
    return [(page, "Training", "lora_train")]


def started(demo: object, app: object) -> None:
    """For `on_app_started`: the routes, on the app of this start or Reload UI."""
    api = Api(desk, lambda: Guard(folders(), remote()), gate(app), closing=lambda: ends(demo))
    api.answer("POST", "/demo", lambda desk, ask: _demonstrated(desk))
    for row in packages.ROUTES:
        api.answer(*row)
    attach(app, api)


def ends(demo: object) -> bool:
    """Whether the server waits for its connections to end, on Reload UI or Ctrl-C."""
    server = getattr(demo, "server", None)  # there is no demo with --nowebui
    return bool(server and server.should_exit)


def desk() -> Desk:
    """The one desk of this process, made when it is first asked for."""
    with OPENING:
        return _desk()


@functools.cache
def _desk() -> Desk:
    from lora_train.hosts.webui.settings import rules
    from lora_train.hosts.webui.which import host
    from lora_train.run.desk import Desk

    return Desk(host(), folders(), rules)


def _demonstrated(desk: Desk) -> dict[str, object]:
    from lora_train.hosts.webui.demo import demonstrated
    from lora_train.hosts.webui.versions import unsupported

    if reason := unsupported():
        raise Mistake(reason)
    return demonstrated(desk)


def gate(app: object | None) -> Gate:
    """As the WebUI was started: --gradio-auth asks for the login, --api-auth's users are let in beside."""
    from modules import shared

    flags = shared.cmd_opts
    pairs = [pair.partition(":") for pair in (flags.api_auth or "").split(",") if pair]
    asked = flags.gradio_auth or flags.gradio_auth_path
    login = Gate.logged_in(app) if app is not None and hasattr(app, "auth") else None
    if asked and login is None:
        login = _nobody
    allowed = tuple((flags.cors_allow_origins or "").split(",")) if flags.cors_allow_origins else ()
    return Gate(
        login=login, users={name: password for name, _, password in pairs}, origins=allowed, secret=_secret()
    )


def _nobody(request: object) -> bool:
    return False


@functools.cache
def _secret() -> str:
    return secrets.token_urlsafe(24)
