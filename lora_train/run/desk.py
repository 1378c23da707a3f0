"""The desk: the one object that faces talk to. Plain values go in and come out; a `Mistake` is a person's."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from lora_train.errors import Mistake
from lora_train.job import assemble
from lora_train.run import foreign, insight, planner, trigger
from lora_train.run.bench import Allow, Bench
from lora_train.run.blockbook import BlockBook
from lora_train.run.journal import Entry
from lora_train.run.live import Live
from lora_train.run.presets import GOALS, Presets
from lora_train.run.queue import RUNNING, UNFINISHED, Queue
from lora_train.run.rules import Rules
from lora_train.run.runs import Runs, taken
from lora_train.run.schema import schema
from lora_train.run.sheets import Sheets, Wish, offered
from lora_train.run.workroom import Workroom
from lora_train.tools import TOOLS
from lora_train.values import plain

if TYPE_CHECKING:
    from lora_train.host import Folders, Host

Values = Mapping[str, object]

CHECKPOINT = "model.pretrained_model_name_or_path"
BESIDE = 6  # runs that are compared at once
AGO = 0.5  # seconds that a model's header is taken for what it was


class Desk:
    """Everything a page can ask for. Every method may be called from any thread."""

    def __init__(self, host: Host, folders: Folders, rules: Callable[[], Rules] = Rules):
        self.host, self.folders, self.rules = host, folders, rules
        self.kept = Presets(folders.desk / "presets")
        self.blocks = BlockBook(folders.loras)  # beside what prompts name
        self.past = Runs(folders.desk / "runs")
        self.line = Queue(host, folders.desk, rules)
        self.sheets = Sheets(host, self.line, folders.desk / "sheets")
        self.bench = Bench(host, self.line, folders, TOOLS)
        self.workroom = Workroom(host, self.line, folders, self.past)
        self._header: tuple[float, dict] = (-AGO, {})

    # ── what can be set ──

    def settings(self) -> dict[str, object]:
        found = schema()
        own = self._usual()
        rows = [{**row, "default": own.get(row["path"], row["default"])} for row in found["settings"]]
        return {**found, "settings": [row for row in rows if row["path"] != "output.run_dir"]}

    def _usual(self) -> dict[str, object]:
        """Defaults that are others here than on the command line."""
        return {"output.output_dir": str(self.folders.loras), "output.sample_base": True}

    def model(self) -> dict[str, object]:
        """The host's header; at most one look in half a second, however many pages ask."""
        at, header = self._header
        if time.monotonic() - at > AGO:
            header = self.host.header()
            self._header = (time.monotonic(), header)
        return header

    def forget(self) -> None:
        """The host has just been given another model."""
        self._header = (-AGO, {})

    def goals(self) -> object:
        return GOALS

    def presets(self) -> list[dict[str, object]]:
        """`first`: the one that a new page begins with."""
        first = self.rules().preset
        return [{**row, "first": row["name"] == first} for row in self.kept.list()]

    def preset(
        self, name: str, goal: str | None = None, family: str | None = None, pictures: int | None = None
    ) -> dict[str, object]:
        return self.kept.offered(name, goal, family, self.model(), pictures)

    def put_preset(self, name: str, values: Values) -> dict[str, object]:
        self.kept.write(name, values)
        return {"name": name}

    def remove_preset(self, name: str) -> dict[str, object]:
        self.kept.remove(name)
        return {}

    def block_presets(self) -> dict[str, object]:
        return self.blocks.list()

    def put_block_preset(self, name: str, text: str) -> dict[str, object]:
        self.blocks.write(name, text)
        return {"name": name}

    def remove_block_preset(self, name: str) -> dict[str, object]:
        self.blocks.remove(name)
        return {}

    def imported(self, name: str, data: bytes) -> dict[str, object]:
        values, notes = foreign.imported(name, data)
        return {"values": {path: plain(value) for path, value in values.items()}, "notes": notes}

    def trigger(self, text: str) -> dict[str, object]:
        return trigger.look(text)

    # ── what would come of it ──

    def look(self, values: Values) -> dict[str, object]:
        full = self._whole(values)
        found = planner.look(full, self.host)
        if text := self._taken(full):
            found["complaints"] = [*found["complaints"], {"path": "output.output_name", "text": text}]
        if plan := found["plan"]:
            over = self.rules().complaints(plan, found["estimate"])
            found["complaints"] = [*found["complaints"], *({"path": p, "text": text} for p, text in over)]
        return found

    def measure(self, values: Values) -> dict[str, object]:
        with self.line.idle():
            return planner.measure(self._whole(values), self.host)

    def _whole(self, values: Values) -> dict[str, object]:
        """With what this place adds: its folders, and of models the one that is loaded."""
        full = {**self._usual(), **values}
        if not full.get("output.output_dir"):
            full["output.output_dir"] = str(self.folders.loras)
        if not full.get(CHECKPOINT):
            full[CHECKPOINT] = self.model().get("path")
        if not full.get("output.run_dir"):
            name = str(full.get("output.output_name") or "lora")
            with contextlib.suppress(Mistake):  # a name that is none is said by the planner
                output = assemble({"output.output_name": name})[1]
                full["output.run_dir"] = str(self.past.folder / output.output_name)
        return {path: plain(value) for path, value in full.items()}

    def _taken(self, full: Values) -> str | None:
        try:
            _, output, place = assemble(full, tolerant=True)
        except Mistake:
            return None
        return taken(output.output_dir, output.output_name, resumed=place.resume is not None)

    def _entry(self, values: Values, name: str | None) -> Entry:
        """Raises Mistake: everything that Start would refuse."""
        full = self._whole(values)
        found = self.look(full)
        if found["complaints"]:
            raise Mistake("\n".join(dict.fromkeys(c["text"] for c in found["complaints"])))
        _, output, _ = assemble(full, tolerant=True)
        full |= {"output.output_name": output.output_name, "output.output_dir": str(output.output_dir)}
        header, path = self.model(), full.get(CHECKPOINT)
        loaded = header.get("path") == path
        model = {
            "name": header.get("name") if loaded else pathlib.Path(str(path)).name,
            "hash": header.get("hash") if loaded else None,
        }
        return Entry.new(name or output.output_name, full, model)

    # ── the queue ──

    def add(self, values: Values, name: str | None = None, start: bool = False) -> dict[str, object]:
        return {"id": self.line.add(self._entry(values, name), start=start).id}

    def queue(self) -> list[dict[str, object]]:
        with self.line.lock:
            return [self._row(entry) for entry in self.line.entries]

    def _row(self, entry: Entry) -> dict[str, object]:
        row, live = dataclasses.asdict(entry), self.line.live
        if live is not None and live.id == entry.id and entry.state == RUNNING:
            row |= {"state": live.now, "step": live.step, "steps": live.steps}
        return row

    def act(self, id: str, what: str) -> dict[str, object]:
        return self._row(self.line.act(id, what))

    def edit(self, id: str, values: Values) -> dict[str, object]:
        self.line.find(id)
        new = self._entry(values, None)
        return self._row(self.line.edit(id, new.values, new.name))

    # ── the run ──

    def status(self, after: int = 0) -> dict[str, object]:
        queue, live = self.queue(), self.line.live
        return {
            "model": self.model(), "queue": queue, "run": live and live.view(after),
            "unfinished": [row for row in queue if row["state"] == UNFINISHED], "sheet": self.sheets.view(),
            "tool": self.bench.brief(), "work": self.workroom.bench.brief(), "now": time.time(),
        }  # fmt: skip

    def pause(self) -> dict[str, object]:
        self.line.control().pause()
        return self._said()

    def go_on(self) -> dict[str, object]:
        self.line.control().go_on()
        return self._said()

    def stop(self, save: bool = True) -> dict[str, object]:
        self.line.stop(save)
        return self._said()

    def save_now(self) -> dict[str, object]:
        self.line.control().save_now()
        return self._said()

    def sample_now(self) -> dict[str, object]:
        self.line.control().sample_now()
        return self._said()

    def _said(self) -> dict[str, object]:
        live = self.line.live
        return {"state": live and live.now, "note": live and live.said()}

    def close(self, seconds: float = 30.0) -> None:
        """Before the program ends."""
        self.sheets.close(seconds)
        self.bench.close(seconds)
        self.workroom.bench.close(seconds)
        self.line.close(seconds)

    # ── runs on disk ──

    def runs(self) -> list[dict[str, object]]:
        return [{**run.row(), **self._how(run.store.name)} for run in self.past.all()]

    def run(self, name: str) -> dict[str, object]:
        return {**self.past.view(name), **self._how(name)}

    def insight(self, name: str) -> dict[str, object]:
        return insight.insight(self.past.one(name))

    def compare(self, names: Sequence[str]) -> dict[str, object]:
        if not 1 < len(names) <= BESIDE:
            raise Mistake(f"names = {'/'.join(names)}: expected two to {BESIDE} runs, with / between")
        return insight.compare([self.past.one(name) for name in names])

    def _how(self, name: str) -> dict[str, object]:
        """State and steps, where the queue knows them better than the files."""
        for row in self.queue():
            if row["values"].get("output.output_name") == name and row["state"] != "waiting":
                return {"state": row["state"], "steps": row["steps"]}
        return {}

    # ── sheets ──

    def sheet(self, name: str, what: str) -> dict[str, object]:
        return self.sheets.begin(self.sheets.of_run(self.past.one(name), what))

    def axes(self) -> dict[str, object]:
        return offered(self.past.all(), self.folders.loras)

    def look_sheet(self, values: Values, job: Values, name: str, run: str | None) -> dict[str, object]:
        """What would come of it, and what is wrong with it."""
        try:
            return {**self.sheets.look(self._wish(values, job, name, run)), "complaints": []}
        except Mistake as e:
            return {"complaints": str(e).splitlines()}

    def plan_sheet(self, values: Values, job: Values, name: str, run: str | None) -> dict[str, object]:
        return self.sheets.begin(self._wish(values, job, name, run))

    def _wish(self, values: Values, job: Values, name: str, run: str | None) -> Wish:
        """Of a run's file the run's own settings, under those that are given; else the loaded model."""
        earlier = {} if run is None else self.past.one(run).values
        full = self._whole({**earlier, **job})
        asked = {"values": dict(values), "job": dict(job), "run": run}
        return self.sheets.planned(asked, full, name, lambda run: self.past.one(run).files())

    def drawn_sheets(self) -> list[dict[str, object]]:
        return self.sheets.all()

    def drawn_sheet(self, name: str, after: int = 0) -> dict[str, object]:
        return self.sheets.one(name, after)

    def remove_sheet(self, name: str) -> dict[str, object]:
        self.sheets.remove(name)
        return {}

    def stop_sheet(self) -> dict[str, object]:
        return self.sheets.stop()

    # ── tools ──

    def tools(self) -> list[dict[str, object]]:
        return self.bench.tools()

    def tool_now(self) -> dict[str, object] | None:
        return self.bench.view()

    def tool_files(self) -> dict[str, object]:
        return self.bench.files()

    def look_tool(self, name: str, values: Values, allow: Allow) -> dict[str, object]:
        return self.bench.look(name, values, allow)

    def use_tool(self, name: str, values: Values, allow: Allow) -> dict[str, object]:
        return self.bench.begin(name, values, allow)

    def stop_tool(self) -> dict[str, object]:
        return self.bench.stop()

    def clear(self, name: str, what: str) -> dict[str, object]:
        live = self.line.live
        if isinstance(live, Live) and live.name == name and live.state == RUNNING:
            raise Mistake(f"{name} is running; stop it first")
        run = self.past.one(name)
        for sheet in self.sheets.of(name) if what == "all" else ():
            self.sheets.remove(sheet)
        run.clear(what)
        return {}
