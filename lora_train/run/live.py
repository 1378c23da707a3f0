"""Live: what can be seen of the run that is on, for any number of onlookers."""

from __future__ import annotations

import collections
import contextlib
import json
import logging
import pathlib
import threading
import time
import urllib.parse
from collections.abc import Iterator

import torch

from lora_train.run.control import Control
from lora_train.run.curve import Curve, lines
from lora_train.run.measure import resident
from lora_train.run.watchers import memory, numbers
from lora_train.train.events import Progress, Watcher

LINES = 500  # of the log, that are shown
PLAN = "plan.json"  # among a run's records: how many steps it was to have
ROUTE = "/lora_train/v1/file?path="

log = logging.getLogger(__name__)


class Live(Watcher):
    """A watcher that remembers. Everything in it may be read from other threads."""

    def __init__(self, id: str, name: str, control: Control, records: pathlib.Path, *, device: str = "cpu"):
        """records: the folder of the run's records, from which a resumed run's past is read."""
        self.id, self.name, self.control, self.records, self.device = id, name, control, records, device
        self.lock = threading.Lock()
        self.state, self.note, self.error = "running", "starting", None
        self.progress: Progress | None = None
        self.curve = Curve()
        self.tried: dict[str, float] = {}  # the last validation's, until they are shown
        self.samples: list[dict] = []
        self.saves: list[dict] = []
        self.log: collections.deque[dict] = collections.deque(maxlen=LINES)
        self.memory = {"before": used(device), "during": None, "after": None}
        self.unchanged, self.result, self.ended = None, None, None
        self.pace: tuple[float, int] | None = None  # seconds and steps when the first step was measured
        self.longest = 0.0  # seconds that the run may take; 0: any
        self.speed, self.clock = None, (0.0, 0)  # images a second; when they were counted, and how many

    # ── told by the run ──

    def preparing(self, what: str, done: int, of: int) -> None:
        self.note = f"{what}: {done} of {of}" if of else what or None

    def started(self, progress: Progress) -> None:
        self.note, self.progress = None, progress
        self.clock = (time.monotonic(), progress.images)
        with contextlib.suppress(OSError):
            (self.records / PLAN).write_text(json.dumps({"steps": progress.steps}), encoding="utf-8")
        if progress.step:
            with self.lock:
                self.curve = Curve.read(self.records).upto(progress.step)
                self.samples = [s for s in drawn(self.records) if s["step"] <= progress.step]

    def measured(self, progress: Progress) -> None:
        line = {**numbers(progress), **self.tried, "megabytes": memory(torch.device(self.device))}
        self.tried = {}
        self.pace = self.pace or (progress.seconds, progress.step)
        with self.lock:
            self.curve.add(line)
        now = time.monotonic()
        if now - self.clock[0] >= 1:
            self.speed = (progress.images - self.clock[1]) / (now - self.clock[0])
            self.clock = (now, progress.images)
            self._weigh()
        if self.longest and progress.seconds > self.longest and not self.control.stopping:
            log.warning(
                "%.0f minutes are over, and no more are allowed here: the run is stopped and saved",
                self.longest / 60)  # fmt: skip
            self.control.stop(True)

    def validated(self, progress: Progress, numbers: dict[str, float]) -> None:
        """Shown with the next step: that of its own was shown before."""
        self.tried = numbers

    def sampled(self, progress: Progress, sample: dict[str, object]) -> None:
        with self.lock:
            self.samples.append(shown(sample))
        self._weigh()

    def saved(self, progress: Progress, file: pathlib.Path) -> None:
        with self.lock:
            self.saves.append({"step": progress.step, "file": str(file)})

    def warned(self, text: str) -> None:
        """What is to be read in the log after the end."""
        with self.lock:
            self.log.append({"time": time.time(), "level": "warning", "text": text})

    def _weigh(self) -> None:
        now = used(self.device)
        if now is not None:
            self.memory["during"] = max(now, self.memory["during"] or 0)

    # ── asked by onlookers ──

    @property
    def step(self) -> int:
        return self.progress.step if self.progress else 0

    @property
    def steps(self) -> int | None:
        return self.progress.steps if self.progress else None

    @property
    def now(self) -> str:
        return "paused" if self.state == "running" and self.control.paused else self.state

    def said(self) -> str | None:
        """A sentence on what it waits for."""
        if self.state != "running":
            return self.note
        if self.control.stopping:
            return "stopping after this step"
        if self.control.paused and not self.control.resting:
            return "pausing after this step"
        return None if self.control.paused else self.note

    def left(self) -> float | None:
        """Seconds, at the pace since the first step: what was made ready before it comes only once."""
        p, begun = self.progress, self.pace
        if p is None or begun is None or p.step <= begun[1]:
            return None
        return (p.seconds - begun[0]) / (p.step - begun[1]) * (p.steps - p.step)

    def view(self, after: int = 0) -> dict[str, object]:
        """The run as `/status` shows it, with the curve behind step `after`."""
        p = self.progress
        with self.lock:
            columns, points = [*self.curve.columns], self.curve.after(after)
            samples, saves, said = [*self.samples], [*self.saves], [*self.log]
        going = p is not None and self.state == "running"
        return {
            "id": self.id, "name": self.name, "state": self.now, "step": self.step, "steps": self.steps,
            "epoch": p and p.step / p.steps_per_epoch, "epochs": p and p.epochs,
            "seconds": (self.ended or p.seconds) if p else 0.0,
            "left": self.left() if going else None,
            "images_per_second": self.speed if going else None, "megabytes": self.memory["during"],
            "loss": p and p.loss, "average": p and p.average, "rates": dict(p.rates) if p else {},
            "columns": columns, "points": points, "samples": samples, "saves": saves, "log": said,
            "note": self.said(),
            "memory": self.memory if self.memory["after"] else None, "unchanged": self.unchanged,
            "result": self.result, "error": self.error,
        }  # fmt: skip

    @contextlib.contextmanager
    def listening(self, file: pathlib.Path) -> Iterator[None]:
        """What lora_train logs inside `with` is kept, here and in a file."""
        ours = logging.getLogger("lora_train")
        before = ours.level
        shown = _Lines(self.log, self.lock)
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            shown.file = file
        ours.addHandler(shown)
        if not ours.isEnabledFor(logging.INFO):
            ours.setLevel(logging.INFO)
        try:
            yield
        finally:
            ours.removeHandler(shown)
            ours.setLevel(before)


class _Lines(logging.Handler):
    """Keeps records as {time, level, text}, and appends them to a file where one is given."""

    def __init__(self, lines: collections.deque, lock: threading.Lock):
        super().__init__(logging.INFO)
        self.lines, self.held, self.file = lines, lock, None

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("lora_train.ui"):
            return
        text = record.getMessage()
        with self.held:
            self.lines.append({"time": record.created, "level": record.levelname.lower(), "text": text})
        if self.file is not None:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
            with contextlib.suppress(OSError), self.file.open("a", encoding="utf-8") as out:
                out.write(f"{stamp} {record.levelname.lower()} {self.format(record)}\n")


def used(device: str) -> float | None:
    """Megabytes in use on the device, by everyone; of this process where it is the CPU."""
    if device.startswith("cuda") and torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info(device)
        return round((total - free) / 2**20, 1)
    return round(resident(), 1) or None


def drawn(records: pathlib.Path) -> list[dict]:
    """The samples of a run, as `/status` shows them."""
    return [shown(line) for line in lines(records / "samples.jsonl")]


def shown(sample: dict) -> dict:
    base = sample.get("base")
    return {
        "step": sample["step"], "number": sample["number"], "prompt": sample["prompt"],
        "url": linked(sample["file"]), "base_url": base and linked(base), "infotext": sample.get("infotext"),
    }  # fmt: skip


def linked(path: object) -> str:
    return ROUTE + urllib.parse.quote(str(path))
