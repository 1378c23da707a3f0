"""The queue: jobs that wait, the one that runs in a thread of its own, and the journal of both on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pathlib
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from lora_train.errors import Mistake
from lora_train.job import Job, Output, assemble
from lora_train.run import hook
from lora_train.run.control import Control
from lora_train.run.journal import Entry, Journal
from lora_train.run.live import Live, used
from lora_train.run.release import release
from lora_train.run.rules import Rules
from lora_train.run.runs import Run, free, taken
from lora_train.run.session import Ended, run
from lora_train.run.store import RunStore
from lora_train.train.room import full

if TYPE_CHECKING:
    from lora_train.host import Host

WAITING, RUNNING, DONE, STOPPED, FAILED = "waiting", "running", "done", "stopped", "failed"
UNFINISHED = "unfinished"
OVER = (DONE, STOPPED, FAILED, UNFINISHED)
KEPT = 30  # jobs that are over and still listed
NOTED = 2.0  # seconds between two notes of the step in the journal
NONE = "no run is on; start one first"
MEMORY = (
    "out of memory: set place.gradient_checkpointing = true, lower data.batch_size or data.resolution, or "
    "train fewer layers with network.train_unet_only = true; other programs and loaded models take memory too"
)

log = logging.getLogger(__name__)


class Queue:
    """Jobs, one at a time. Every method may be called from any thread.

    Once a person starts a job, those that wait follow it; a stop, and a restart of the program, end that.
    """

    def __init__(self, host: Host, folder: pathlib.Path, rules: Callable[[], Rules] = Rules):
        """rules: asked anew each time, for a person may change them while the program runs."""
        self.host, self.folder, self.rules = host, folder, rules
        self.journal = Journal(folder / "queue.json")
        self.lock = threading.RLock()
        self.entries = self.journal.read()
        self.rolling, self.thread, self.teller = False, None, None
        self.live: Live | None = None  # of the run that is on, or the last one
        self.machine = threading.Lock()  # held while something computes
        for entry in self.entries:
            if entry.state in (RUNNING, "paused"):
                entry.state, entry.step = UNFINISHED, reached(entry)
        self.journal.write(self.entries)

    # ── jobs ──

    def add(self, entry: Entry, *, start: bool) -> Entry:
        with self.lock:
            self._name_is_free(entry)
            self._room()
            self.entries.append(entry)
            if start:
                self._begin(entry)
            self.journal.write(self.entries)
        return entry

    def find(self, id: str) -> Entry:
        """Raises LookupError: there is no such job."""
        for entry in self.entries:
            if entry.id == id:
                return entry
        raise LookupError(f"{id}: no such job")

    def act(self, id: str, what: str) -> Entry:
        """Raises Mistake: the job is not in a state for it."""
        actions = {
            "up": self._up, "down": self._down, "duplicate": self._duplicate, "remove": self._remove,
            "keep": self._remove, "start": self._begin, "resume": self._resume, "discard": self._discard,
        }  # fmt: skip
        if what not in actions:
            raise LookupError(f"{what}: nothing that can be done to a job; there is {', '.join(actions)}")
        with self.lock:
            entry = self.find(id)
            if entry.state == RUNNING and what != "duplicate":
                raise Mistake(f"{entry.name} is running; stop it first")
            changed = actions[what](entry) or entry
            self.journal.write(self.entries)
        return changed

    def edit(self, id: str, values: dict[str, object], name: str) -> Entry:
        with self.lock:
            entry = self.find(id)
            if entry.state == RUNNING:
                raise Mistake(f"{entry.name} is running; its settings are what they are")
            self._name_is_free(dataclasses.replace(entry, values=values, name=name))
            if entry.state in (STOPPED, FAILED):
                self._room()
                entry.state, entry.error, entry.step = WAITING, None, 0
            entry.values, entry.name = values, name
            self.journal.write(self.entries)
        return entry

    def _name_is_free(self, entry: Entry) -> None:
        for other in self.entries:
            if other.id != entry.id and other.state in (WAITING, RUNNING) and other.place == entry.place:
                raise Mistake(
                    f"output.output_name = {entry.name}: a job that is {other.state} writes under this name; "
                    "take another one"
                )

    def _room(self) -> None:
        self.rules().room(sum(e.state in (WAITING, RUNNING) for e in self.entries))

    def _move(self, entry: Entry, by: int) -> None:
        waiting = [e for e in self.entries if e.state == WAITING]
        if entry not in waiting:
            raise Mistake(f"{entry.name} does not wait; only jobs that wait have an order")
        other = waiting.index(entry) + by
        if 0 <= other < len(waiting):
            a, b = self.entries.index(entry), self.entries.index(waiting[other])
            self.entries[a], self.entries[b] = self.entries[b], self.entries[a]

    def _up(self, entry: Entry) -> None:
        self._move(entry, -1)

    def _down(self, entry: Entry) -> None:
        self._move(entry, 1)

    def _duplicate(self, entry: Entry) -> Entry:
        self._room()
        output = pathlib.Path(str(entry.values["output.output_dir"]))
        names = {e.name for e in self.entries}
        name = unused(output, entry.name, names)
        values = {**entry.values, "output.output_name": name, "place.resume": None}
        values["output.run_dir"] = str(pathlib.Path(str(entry.values["output.run_dir"])).with_name(name))
        copy = Entry.new(name, values, entry.model)
        self.entries.insert(self.entries.index(entry) + 1, copy)
        return copy

    def _remove(self, entry: Entry) -> None:
        self.entries.remove(entry)

    def _begin(self, entry: Entry) -> None:
        """Before all others that wait; at once, if nothing runs."""
        if entry.state in OVER and entry.state != FAILED:
            raise Mistake(f"{entry.name} is {entry.state}; duplicate or resume it")
        if entry.state == FAILED:
            self._room()
        entry.state, entry.error = WAITING, None
        self.entries.remove(entry)
        first = next((i for i, e in enumerate(self.entries) if e.state == WAITING), len(self.entries))
        self.entries.insert(first, entry)
        self.rolling = True
        if self.thread is None and self._take():
            self.thread = threading.Thread(target=self._work, name="lora-train", daemon=True)
            self.thread.start()

    def _resume(self, entry: Entry) -> None:
        if entry.state not in (STOPPED, FAILED, UNFINISHED):
            raise Mistake(f"{entry.name} is {entry.state}; there is nothing to resume")
        self._room()
        state, step = files_of(entry).newest or (None, 0)  # without a state it begins anew
        entry.values = {**entry.values, "place.resume": state and str(state)}
        entry.state, entry.step = WAITING, step
        self._begin(entry)

    def _discard(self, entry: Entry) -> None:
        files_of(entry).clear("all")
        self.entries.remove(entry)

    # ── the run ──

    def control(self) -> Control:
        """Raises Mistake: no run is on."""
        with self.lock:
            live = self.live
            if live is None or live.state != RUNNING:
                raise Mistake(NONE)
            return live.control

    def stop(self, save: bool) -> None:
        with self.lock:
            control = self.control()
            self.rolling = False
            control.stop(save)

    def close(self, seconds: float) -> None:
        """The program ends: the run is stopped and saved, if that does not take too long."""
        with contextlib.suppress(Mistake):
            self.stop(True)
        if (thread := self.thread) is not None:
            thread.join(seconds)
        if self.teller is not None:
            self.teller.join(hook.PATIENCE)

    @contextlib.contextmanager
    def idle(self) -> Iterator[None]:
        """Raises Mistake: something computes."""
        if not self.machine.acquire(blocking=False):
            raise Mistake("a run is on; measure when it has ended")
        try:
            yield
        finally:
            self.machine.release()

    def _work(self) -> None:
        """What the thread does: the job that was taken, and those that wait behind it."""
        while True:
            with self.machine:
                self._run(self.find(self.live.id), self.live)
            with self.lock:
                if not self._take():
                    self.thread, self.rolling = None, False
                    return

    def _take(self) -> bool:
        """The first that waits is now the one that runs, if one may."""
        entry = next((e for e in self.entries if e.state == WAITING), None) if self.rolling else None
        if entry is None:
            return False
        records = files_of(entry).store.records
        self.live = Live(entry.id, entry.name, Control(), records, device=self._device())
        self.live.longest = 60 * self.rules().minutes
        entry.state, entry.began, entry.ended = RUNNING, time.time(), None
        entry.error, entry.file = None, None
        self.journal.write(self.entries)
        return True

    def _device(self) -> str:
        with contextlib.suppress(Exception):  # what is wrong with it, the run will say
            return str(self.host.header().get("device") or "cpu")
        return "cpu"

    def _run(self, entry: Entry, live: Live) -> None:
        noting = threading.Event()
        threading.Thread(target=self._note, args=(entry, live, noting), daemon=True).start()
        with live.listening(self.folder / "logs" / f"{entry.name}.log"):
            state, error = self._trained(entry, live)
            if error:
                log.error("%s", error)
            release()
            live.memory["after"] = used(live.device)
            with contextlib.suppress(Exception):
                live.unchanged = self.host.header().get("unchanged")
        noting.set()
        with self.lock:
            entry.state, entry.error, entry.ended = state, error, time.time()
            entry.step, entry.steps = live.step or entry.step, live.steps or entry.steps
            entry.file = live.saves[-1]["file"] if live.saves else None
            live.ended = live.progress.seconds if live.progress else None
            live.state, live.error, live.note = state, error, error
            over = [e for e in self.entries if e.state in (DONE, STOPPED, FAILED)]
            gone = {e.id for e in over[:-KEPT]}
            self.entries = [e for e in self.entries if e.id not in gone]
            self.journal.write(self.entries)
        self.teller = hook.tell(self.rules().webhook, told(entry, live), live.warned)

    def _trained(self, entry: Entry, live: Live) -> tuple[str, str | None]:
        """(how it ended, why it failed)."""
        try:
            job, output, place = assemble(entry.values, tolerant=True)
            own = entry.own or place.resume is not None
            if used_up := taken(output.output_dir, output.output_name, resumed=own):
                return FAILED, used_up
            entry.own = True
            ended = run(job, output, place, self.host, watchers=[live], control=live.control)
            live.result = self._result(job, output, live) if live.saves else None
            return (STOPPED if ended.progress.stopped else DONE), None
        except Ended:
            return STOPPED, None
        except Mistake as e:
            return FAILED, str(e)
        except Exception as e:  # noqa: BLE001 (the queue goes on, whatever a run does)
            return FAILED, self._fault(entry, e)

    def _result(self, job: Job, output: Output, live: Live) -> dict[str, object]:
        """The card of what came out."""
        checks: list[str] = []
        for saved in [*live.saves]:
            file = pathlib.Path(saved["file"])
            if file.is_file():
                try:
                    said = self.host.announce(file, job, output)
                except Exception as e:  # a host's own code may raise anything, and the file is there
                    log.exception("%s is saved, but the host could not be told of it", file.name)
                    said = [
                        f"{file.name} is saved, but could not be announced ({e}); refresh the list of LoRAs"
                    ]
                checks += [line for line in said if line not in checks]
        file = pathlib.Path(live.saves[-1]["file"])
        size = file.stat().st_size if file.is_file() else 0
        trigger = job.data.trigger_word or output.card.trigger_phrase
        return {
            "file": str(file), "name": file.stem, "trigger": trigger, "bytes": size, "checks": checks,
        }  # fmt: skip

    def _fault(self, entry: Entry, error: Exception) -> str:
        """What a person is told; the traceback goes beside the run."""
        told = traceback.format_exception(error)
        store = files_of(entry).store
        folder = store.records if store.records.is_dir() else self.folder / "logs"
        file = folder / "error.txt"
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(told), encoding="utf-8")
        if full(error):
            return MEMORY
        reason = "".join(str(error).splitlines()[:1])
        kind = type(error).__name__
        return f"a fault of lora-train: {kind}: {reason}; {file} has the traceback, please report it"

    def _note(self, entry: Entry, live: Live, over: threading.Event) -> None:
        """Writes the step down now and then, for a process that is killed."""
        while not over.wait(NOTED):
            with self.lock:
                if live.state == RUNNING and not over.is_set() and live.step != entry.step:
                    entry.step, entry.steps = live.step, live.steps
                    self.journal.write(self.entries)


def told(entry: Entry, live: Live) -> dict[str, object]:
    """What a webhook is told; of the file its name, for folders are a person's own."""
    return {
        "name": entry.name, "state": entry.state, "step": entry.step, "steps": entry.steps,
        "seconds": round(live.ended or 0.0, 1), "file": entry.file and pathlib.Path(entry.file).name,
        "error": entry.error,
    }  # fmt: skip


def files_of(entry: Entry) -> Run:
    values = entry.values
    beside = values.get("output.run_dir")
    store = RunStore(
        pathlib.Path(str(values["output.output_dir"])), str(values["output.output_name"]),
        pathlib.Path(str(beside)) if beside else None)  # fmt: skip
    return Run(store, values)


def reached(entry: Entry) -> int:
    """The step that a run which was cut off would go on from."""
    found = files_of(entry).newest
    return found[1] if found else entry.step


def unused(folder: pathlib.Path, name: str, names: set[str]) -> str:
    other = free(folder, name)
    while other in names:
        other = free(folder, other)
    return other
