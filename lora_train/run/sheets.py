"""Sheets of a run that has ended: its LoRA at several strengths, or the files it saved side by side."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lora_train.data.memory import Memory, usual
from lora_train.data.plan import plan
from lora_train.errors import Mistake
from lora_train.job import assemble
from lora_train.run import samples
from lora_train.run.draw import Column, columns, strengths
from lora_train.run.live import linked
from lora_train.run.release import release
from lora_train.run.store import whole
from lora_train.train.arithmetic import quick
from lora_train.train.room import full

if TYPE_CHECKING:
    from PIL import Image

    from lora_train.host import Host
    from lora_train.run.queue import Queue
    from lora_train.run.runs import Run

STRENGTHS = (0.0, 0.4, 0.6, 0.8, 1.0, 1.2)
PROMPTS, FILES = 3, 8  # at most, on one sheet
DRAWING = "drawing"
FULL = "out of memory: close other programs, or unload other models, and draw it again"
Page = Callable[[Callable[[], None]], "Image.Image"]  # asked while it waits for the host's model

log = logging.getLogger(__name__)


class Broken(Exception):
    """A person does not want it any more."""


@dataclasses.dataclass
class Sheet:
    """One that is drawn, or was."""

    run: str
    what: str  # "strengths" or "files"
    state: str = DRAWING  # then done, stopped or failed
    done: int = 0
    of: int = 0
    url: str | None = None
    error: str | None = None


class Sheets:
    """Draws one at a time, in a thread of its own, while nothing trains."""

    def __init__(self, host: Host, line: Queue):
        self.host, self.line = host, line
        self.now: Sheet | None = None
        self.stopping = threading.Event()
        self.thread: threading.Thread | None = None

    def begin(self, run: Run, what: str) -> dict[str, object]:
        """Raises Mistake: something else is drawn or trained, or there is nothing to draw."""
        made, (job, output, place) = wanted(run, what), assemble(run.values, tolerant=True)
        planned = plan(job.data, decode=False, memory=Memory(usual()))
        prompts = samples.wanted(job, output, planned)[:PROMPTS]
        if not self.line.machine.acquire(blocking=False):
            drawing = self.now is not None and self.now.state == DRAWING
            raise Mistake(
                "a sheet is being drawn; wait for it, or stop it"
                if drawing
                else "a run is on; draw the sheet when it has ended"
            )
        self.now = sheet = Sheet(run.store.name, what, of=len(made) * len(prompts))
        self.stopping.clear()

        def page(waiting: Callable[[], None]) -> Image.Image:
            with self.host.borrow(
                job.model, device=place.device, precision=job.training.mixed_precision, waiting=waiting
            ) as lent, quick(lent.device):  # fmt: skip
                return columns(
                    lent, made, prompts, [output.output_dir], title=run.store.name, told=self._told
                )

        file = run.store.records / f"{what}.png"
        self.thread = threading.Thread(
            target=self._draw, args=(sheet, page, file), name="lora-train sheet", daemon=True
        )
        self.thread.start()
        return dataclasses.asdict(sheet)

    def stop(self) -> dict[str, object]:
        """After the picture that is being drawn."""
        self.stopping.set()
        return self.view() or {}

    def view(self) -> dict[str, object] | None:
        return None if self.now is None else dataclasses.asdict(self.now)

    def close(self, seconds: float) -> None:
        """The program ends."""
        self.stopping.set()
        if self.thread is not None:
            self.thread.join(seconds)

    def _draw(self, sheet: Sheet, page: Page, file: pathlib.Path) -> None:
        found = self._ended(sheet, page, file)
        release()
        self.line.machine.release()
        for name, value in found.items():  # the state comes last: who sees it may draw the next one
            setattr(sheet, name, value)

    def _ended(self, sheet: Sheet, page: Page, file: pathlib.Path) -> dict[str, str]:
        """What is to be said of it."""
        try:
            image = page(self._asked)
            with whole(file) as part:
                image.save(part, "PNG")
        except Broken:
            return {"state": "stopped"}
        except Mistake as e:
            return {"error": str(e), "state": "failed"}
        except Exception as e:
            if full(e):
                return {"error": FULL, "state": "failed"}
            log.exception("The sheet of %s could not be drawn", sheet.run)
            said = (
                f"a fault of lora-train: {type(e).__name__}: {e}; the log has the traceback, please report it"
            )
            return {"error": said, "state": "failed"}
        url = f"{linked(file)}&drawn={time.time():.0f}"  # or a browser shows the last one
        return {"url": url, "state": "done"}

    def _asked(self) -> None:
        if self.stopping.is_set():
            raise Broken

    def _told(self, done: int, of: int) -> None:
        self._asked()
        self.now.done, self.now.of = done, of


def wanted(run: Run, what: str) -> list[Column]:
    """The columns of one of the two sheets.

    Raises:
        Mistake: the run has no file, or not two of them.
    """
    files = run.files()
    if not files:
        raise Mistake(f"{run.store.name}: no saved file is there; train it first")
    if what == "strengths":
        return strengths(files[-1], STRENGTHS)
    if what != "files":
        raise Mistake(f"what = {what}: expected strengths or files")
    if len(files) == 1:
        raise Mistake(
            f"{run.store.name}: only one file was saved; output.save_every_n_epochs saves more to compare"
        )
    shown = files if len(files) <= FILES else spread(files, FILES)
    return [Column("without", shown[0], 0.0), *(Column(f.stem, f, 1.0) for f in shown)]


def spread(files: Sequence[pathlib.Path], count: int) -> list[pathlib.Path]:
    """So many of them, evenly, the first and the last among them."""
    last = len(files) - 1
    return [files[round(i * last / (count - 1))] for i in range(count)]
