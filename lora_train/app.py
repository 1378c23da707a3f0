"""`lora-train ui`: the same page as in the WebUI, in a window of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import pathlib
import threading
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from lora_train.errors import Mistake
from lora_train.host import Folders, Lent, Model, Sketch
from lora_train.hosts.standalone.host import StandaloneHost
from lora_train.job import Job, Output, Place
from lora_train.models.files import find
from lora_train.options import Parser, parse
from lora_train.run import hook
from lora_train.run.presets import Presets
from lora_train.run.rules import Rules
from lora_train.ui import demo
from lora_train.ui.api import PREFIX, Api, attach
from lora_train.ui.gate import Gate
from lora_train.ui.guard import Guard, cleaned
from lora_train.ui.page import assets, root
from lora_train.values import shown

if TYPE_CHECKING:
    from lora_train.host import Host

HERE = ("127.0.0.1", "localhost", "::1")
PORT = 7870
DEMO = demo.CHECKPOINT / "demo.safetensors"
LIMITS = {  # flag -> the rule that it sets, and what it means
    "max_jobs": ("jobs", "Most jobs in the queue. [any]"),
    "max_steps": ("steps", "Most steps of a run. [any]"),
    "max_minutes": ("minutes", "Minutes after which a run is stopped and saved. [any]"),
    "min_free_gb": ("gigabytes", "GB of the disk that a run has to leave free. [a little]"),
}

log = logging.getLogger(__name__)


class OneModel(StandaloneHost):
    """Where a job names no checkpoint, the window's: as in the WebUI, where it is the loaded one."""

    def __init__(self, folders: Folders, checkpoint: pathlib.Path):
        super().__init__(folders)
        self.checkpoint = checkpoint

    def borrow(
        self, model: Model, *, device: str, precision: str, waiting: Callable[[], None] = lambda: None
    ) -> contextlib.AbstractContextManager[Lent]:
        return super().borrow(self._named(model), device=device, precision=precision, waiting=waiting)

    def sketch(self, model: Model, *, precision: str) -> contextlib.AbstractContextManager[Sketch]:
        return super().sketch(self._named(model), precision=precision)

    def refusals(self, job: Job, output: Output, place: Place) -> list[str]:
        return super().refusals(dataclasses.replace(job, model=self._named(job.model)), output, place)

    def header(self) -> dict[str, object]:
        """Of the window's checkpoint; only its table of contents is read."""
        try:
            facts = find(self.checkpoint).facts
            said = {"loaded": True, "family": facts.arch, "prediction": facts.prediction}
        except Mistake as e:
            said = {"loaded": False, "trainable": False, "reason": str(e)}
        path = str(self.checkpoint)
        return {**super().header(), "name": self.checkpoint.name, "path": path, "dtype": "fp32", **said}

    def _named(self, model: Model) -> Model:
        named = model.pretrained_model_name_or_path or self.checkpoint
        return dataclasses.replace(model, pretrained_model_name_or_path=named)


class Window:
    """The server of the page. `with Window(host, folders) as url:` it answers."""

    def __init__(
        self,
        host: Host,
        folders: Folders,
        *,
        address: str = HERE[0],
        port: int | None = None,
        login: tuple[str, str] | None = None,
        rules: Rules | None = None,
    ):
        self.host, self.folders, self.address, self.port, self.login = host, folders, address, port, login
        self.rules = rules or Rules()
        self.opening = threading.Lock()

    def __enter__(self) -> str:
        import gradio as gr

        with gr.Blocks(title="lora-train", analytics_enabled=False, fill_width=True) as self.page:
            gr.HTML(root("standalone"))
        scripts, style = assets()
        app, url, _ = self.page.launch(
            server_name=self.address, server_port=self.port, auth=self.login, head=_head(scripts),
            css_paths=[style], footer_links=[], prevent_thread_lock=True, quiet=True,
            ssr_mode=False)  # fmt: skip
        api = Api(
            self.desk, lambda: Guard(self.folders, self.address not in HERE), Gate(login=Gate.logged_in(app)),
            closing=self.ends)  # fmt: skip
        api.answer("POST", "/demo", lambda desk, ask: self.demonstrated())
        attach(app, api)
        app.router.routes.insert(0, Route(f"{PREFIX}/assets/{{name}}", _asset))
        return url

    def __exit__(self, *error: object) -> None:
        if "_desk" in vars(self):
            self._desk.close()  # a run that is on keeps its state
        self.page.close(verbose=False)

    def wait(self) -> None:
        """Until Ctrl-C."""
        self.page.block_thread()

    def ends(self) -> bool:
        return bool(self.page.server and self.page.server.should_exit)

    def desk(self) -> object:
        with self.opening:
            return self._desk

    @functools.cached_property
    def _desk(self) -> object:
        from lora_train.run.desk import Desk

        return Desk(self.host, self.folders, lambda: self.rules)

    def demonstrated(self) -> dict[str, object]:
        return {"values": demo.values(self.folders.desk / "pictures", DEMO), "notes": []}


def _head(scripts: list[pathlib.Path]) -> str:
    """Each with its time, so that a browser does not keep an old one."""
    lines = (f'<script src="{PREFIX}/assets/{p.name}?{p.stat().st_mtime}" defer></script>' for p in scripts)
    return "\n".join(lines)


def _asset(request: Request) -> Response:
    found = {p.name: p for p in assets()[0]}
    file = found.get(request.path_params["name"])
    return FileResponse(file, media_type="text/javascript") if file else Response(status_code=404)


def window(words: Sequence[str]) -> tuple[Window, bool]:
    """What the words after `lora-train ui` come to; and whether to open a browser.

    Raises:
        Mistake: a port or login that is none, or this installation has no page.
    """
    given = parse(_parser(), words)
    if not assets()[0]:
        raise Mistake("the page's files are not here; run lora-train ui in a clone of the repository")
    name, colon, password = str(given.get("auth", "")).partition(":")
    if "auth" in given and not (name and password):
        raise Mistake("auth: expected name:password")
    port = str(given.get("port", PORT))
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise Mistake(f"port = {shown(port)}: expected 1 to 65535")
    if "listen" in given and not colon:
        raise Mistake("listen: expected --auth name:password beside it; all who reach the page may train")
    asked = given.get("pretrained_model_name_or_path")
    checkpoint = pathlib.Path(cleaned(asked)).resolve() if asked else DEMO
    desk = kept()
    pictures = (desk / "pictures",) if "listen" in given else ()
    folders = Folders(
        loras=pathlib.Path(str(given.get("output_dir", "output"))).resolve(), desk=desk,
        models=tuple({checkpoint.parent, DEMO.parent}), pictures=pictures)  # fmt: skip
    address = "0.0.0.0" if "listen" in given else HERE[0]
    login = (name, password) if colon else None
    made = Window(
        OneModel(folders, checkpoint), folders, address=address, port=int(port), login=login,
        rules=_rules(given))  # fmt: skip
    return made, "no_browser" not in given


def _rules(given: Mapping[str, object]) -> Rules:
    """Raises Mistake: a limit that is no number, an address that is none, a preset that there is not."""
    for name in LIMITS:
        text = str(given.get(name, 0))
        if not text.replace(".", "", 1).isdecimal():
            raise Mistake(f"{name} = {shown(text)}: expected a number; 0 sets no limit")
    if "webhook" in given:
        hook.address(str(given["webhook"]))
    if "preset" in given:
        Presets(kept() / "presets").read(str(given["preset"]))
    limits = {of: given.get(name) for name, (of, _) in LIMITS.items()}
    return Rules.read({**given, **limits})


def _parser() -> Parser:
    parser = Parser("lora-train ui", "Open a window to train in.")
    parser.add_argument(
        "--pretrained_model_name_or_path", metavar="PATH", help="Checkpoint to begin with. [the demo's]"
    )
    parser.add_argument("--output_dir", metavar="PATH", help="Folder for finished LoRAs. [output]")
    parser.add_argument("--port", metavar="N", help=f"Port of the page. [{PORT}]")
    parser.add_argument("--listen", action="store_true", help="Let other machines in; needs --auth.")
    parser.add_argument("--auth", metavar="NAME:PASSWORD", help="Ask for them before the page is shown.")
    parser.add_argument("--preset", metavar="NAME", help="Preset that a new page begins with. [Balanced]")
    parser.add_argument("--webhook", metavar="URL", help="Address that is told when a run has ended.")
    for name, (_, text) in LIMITS.items():
        parser.add_argument(f"--{name}", metavar="N", help=text)
    parser.add_argument("--no_browser", action="store_true", help="Open no browser.")
    return parser


def kept() -> pathlib.Path:
    """The folder for queue and presets, where the system wants what programs keep."""
    usual = pathlib.Path.home() / ".local" / "share"
    base = os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_DATA_HOME") or usual
    return pathlib.Path(base) / "lora-train"


def command(words: Sequence[str]) -> int:
    """Opens the window and stays until Ctrl-C."""
    made, browser = window(words)
    with made as url:
        log.info("The window is at %s; Ctrl-C ends it.", url)
        if browser:
            webbrowser.open(url)
        made.wait()
    return 0
