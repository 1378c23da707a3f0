"""The bench: tools on files as a page asks for them, one at a time, and what came of the last."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
import pathlib
import threading
import time
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping

from lora_train.errors import Mistake, fault
from lora_train.knobs import Setting, build, settings
from lora_train.run.control import Ended
from lora_train.run.release import release
from lora_train.run.schema import row
from lora_train.tools.foreseen import foreseen, head
from lora_train.tools.tool import Report, Tool
from lora_train.train.room import full
from lora_train.values import unwrapped

if typing.TYPE_CHECKING:
    from lora_train.host import Folders, Host
    from lora_train.run.queue import Queue

Allow = Callable[..., object]  # (path, setting, written=…); raises Mistake where a path may not be named

WORKING = "working"
FULL = "out of memory: close other programs, or unload other models, and run it again"
HOLDS = {  # setting -> what its files are; a tool's own row wins
    "sd_model": "checkpoint", "base": "checkpoint", "model_org": "checkpoint", "model_tuned": "checkpoint",
    "vae": "checkpoint", "convert-model.model": "checkpoint", "model": "lora", "models": "lora",
    "pretrained_model_name_or_path": "checkpoint", "cover": "picture", "thumbnail": "picture",
    "preview": "picture", "save_to": "new", "picture": "new",
}  # fmt: skip
MADE = {  # tool -> the end of the name that is proposed for what it makes
    "merge": "merged", "extract": "extracted", "resize": "resized", "convert": "converted",
    "convert-model": "diffusers", "dehydrate": "dehydrated", "rehydrate": "rehydrated",
}  # fmt: skip
FROM = ("sd_model", "model_tuned", "model", "models", "difference")  # settings whose name it begins with
MOST = 2000  # files that are listed of a kind, the newest
WEIGHTS = (".safetensors", ".ckpt", ".pt")

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Task:
    """A tool at work, or what came of it."""

    id: int
    name: str  # of the tool
    values: Mapping[str, object]
    state: str = WORKING  # then done, stopped or failed
    done: int = 0
    of: int = 0
    began: float = 0.0
    seconds: float = 0.0
    lines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # of the host, on what was written
    files: tuple[str, ...] = ()
    facts: Mapping[str, object] = dataclasses.field(default_factory=dict)
    error: str | None = None

    def brief(self) -> dict[str, object]:
        """What every onlooker is told again and again."""
        left = None
        if self.state == WORKING and self.done:
            left = (time.time() - self.began) * (self.of - self.done) / self.done
        own = {"id": self.id, "name": self.name, "state": self.state, "done": self.done, "of": self.of}
        return {**own, "left": None if left is None else round(left)}


class Bench:
    """Every method may be called from any thread."""

    def __init__(self, host: Host, line: Queue, folders: Folders, tools: Mapping[str, type[Tool]]):
        self.host, self.line, self.folders, self.table = host, line, folders, tools
        self.now: Task | None = None
        self.lock = threading.Lock()
        self.stopping = False
        self.thread: threading.Thread | None = None
        self.numbers = itertools.count(int(time.time()))

    def tools(self) -> list[dict[str, object]]:
        """What a form needs of each."""
        return [
            {
                "name": name, "about": tool.said(), "light": tool.light,
                "rows": [offered(name, s) for s in sorted(settings(tool), key=_written)],
            }
            for name, tool in self.table.items()
        ]  # fmt: skip

    def named(self, name: str) -> type[Tool]:
        """Raises LookupError: there is no such tool."""
        if name not in self.table:
            raise LookupError(f"{name}: no such tool; there is {', '.join(self.table)}")
        return self.table[name]

    def settings(self, name: str) -> dict[str, Setting]:
        """Of a tool, by their path."""
        return {s.path: s for s in settings(self.named(name))}

    def look(self, name: str, values: Mapping[str, object], allow: Allow) -> dict[str, object]:
        """What is wrong with it, what its files are, what would be written, and a name for that."""
        found = {
            "complaints": [], "heads": heads(name, self.settings(name), values), "makes": [], "comes": None,
            "proposed": self._proposed(name, values),
        }  # fmt: skip
        try:
            tool = self.built(name, values, allow)
        except Mistake as e:
            return {**found, "complaints": str(e).splitlines()}
        makes = [{"path": str(path), "there": path.exists()} for _, path in tool.makes()]
        with contextlib.suppress(Mistake, OSError):  # which the tool says when it is run
            found["comes"] = foreseen(tool)
        return {**found, "makes": makes}

    def begin(self, name: str, values: Mapping[str, object], allow: Allow) -> dict[str, object]:
        """Raises Mistake: a setting is wrong, or something else is at work."""
        tool = self.built(name, values, allow)
        with self.lock:
            if self.now is not None and self.now.state == WORKING:
                raise Mistake(f"{self.now.name} is at work; wait for it, or stop it")
            if not tool.light and not self.line.machine.acquire(blocking=False):
                raise Mistake("a run is on; this tool needs the memory, so begin it when the run has ended")
            self.stopping = False
            self.now = task = Task(next(self.numbers), name, dict(values), began=time.time())
        self.thread = threading.Thread(
            target=self._work, args=(task, tool), name=f"lora-train {name}", daemon=True
        )
        self.thread.start()
        return self.view()

    def stop(self) -> dict[str, object]:
        """After the layer that is under way; what was begun is not written."""
        self.stopping = True
        return self.view()

    def view(self) -> dict[str, object] | None:
        """All of it."""
        return None if self.now is None else {**dataclasses.asdict(self.now), **self.now.brief()}

    def brief(self) -> dict[str, object] | None:
        return None if self.now is None else self.now.brief()

    def close(self, seconds: float) -> None:
        """The program ends."""
        self.stopping = True
        if self.thread is not None:
            self.thread.join(seconds)

    def files(self) -> dict[str, list[dict[str, object]]]:
        """What there is to choose from: LoRAs and checkpoints where this place keeps them."""
        loras = [path for path in listed([self.folders.loras]) if path.suffix == WEIGHTS[0]]
        models = [path for path in listed(self.folders.models) if path not in set(loras)]
        return {"lora": [*described(loras)], "checkpoint": [*described(models)]}

    # ── at work ──

    def built(self, name: str, values: Mapping[str, object], allow: Allow) -> Tool:
        """Raises Mistake: all that is wrong with its settings, or with one of its paths."""
        tool = build(self.named(name), {path: value for path, value in values.items() if value != ""})
        complaints = []
        for paths, written in ((tool.named(), False), (tool.makes(), True)):
            for setting, path in paths:
                try:
                    allow(path, setting, written=written)
                except Mistake as e:
                    complaints.append(str(e))
        if complaints:
            raise Mistake("\n".join(complaints))
        return tool

    def _work(self, task: Task, tool: Tool) -> None:
        found = self._ended(task, tool)
        release()
        if not tool.light:
            self.line.machine.release()
        task.seconds = time.time() - task.began
        for name, value in found.items():  # the state comes last: who sees it may begin the next
            setattr(task, name, value)

    def _ended(self, task: Task, tool: Tool) -> dict[str, object]:
        def told(done: int, of: int) -> None:
            if self.stopping:
                raise Ended
            task.done, task.of = done, of

        try:
            report = tool.within(self.host, told)
        except Ended:
            return {"state": "stopped"}
        except (Mistake, OSError) as e:
            return {"error": said(e), "state": "failed"}
        except Exception as e:
            if full(e):
                return {"error": FULL, "state": "failed"}
            log.exception("The tool %s could not do it", task.name)
            return {"error": fault(e), "state": "failed"}
        return {
            "lines": report.lines, "facts": report.facts, "files": tuple(map(str, report.files)),
            "notes": tuple(self._told(report)), "state": "done",
        }  # fmt: skip

    def _told(self, report: Report) -> list[str]:
        """What the host says of the files; they are there, whatever that is."""
        try:
            return self.host.wrote(report.files) if report.files else []
        except Exception as e:  # a host's own code may raise anything
            log.exception("The host could not be told of %s", report.files)
            return [f"the files are written, but the host could not be told of them ({e}); refresh its lists"]

    def _proposed(self, name: str, values: Mapping[str, object]) -> str | None:
        """A path for what the tool makes, beside what it is made from; None where it makes nothing."""
        given = next((value for path in FROM if (value := values.get(path))), None)
        if name not in MADE or not given:
            return None
        first = pathlib.Path(str(given if isinstance(given, str) else [*given][0]).split(",")[0])
        stem = first.name if first.is_dir() else first.stem
        makes_lora = name == "extract" or name == "dehydrate" and values.get("rank")
        folder = self.folders.loras if makes_lora else first.parent
        whole = name == "convert-model" and first.is_dir()
        makes_folder = name == "convert-model" and not whole
        makes_folder = makes_folder or (name == "convert" and "peft" in (values.get("to") or ()))
        makes_folder = makes_folder or (name == "merge" and first.is_dir())
        end, words = "" if makes_folder else ".safetensors", "checkpoint" if whole else MADE[name]
        tries = (f"{stem}-{words}{n}{end}" for n in ("", *(f"-{n}" for n in range(2, 1000))))
        return next((str(folder / file) for file in tries if not (folder / file).exists()), None)


def offered(name: str, s: Setting) -> dict[str, object]:
    """A setting as a form needs it, and what its files are where it is one of paths."""
    found, inner = row(s, {}), unwrapped(s.type)[0]
    several = typing.get_origin(inner) is tuple
    one = typing.get_args(inner)[0] if several else inner
    holds = None
    if one is pathlib.Path or (s.place and not s.choices):
        holds = HOLDS.get(f"{name}.{s.path}", HOLDS.get(s.path, "any"))
    texts = several and one is str and not s.choices
    return {**found, "type": "lines" if texts else found["type"], "holds": holds, "several": several}


def _written(s: Setting) -> bool:
    """What is written stands behind what it is made of."""
    return s.group == "output"


def heads(name: str, known: Mapping[str, Setting], values: Mapping[str, object]) -> list[dict[str, object]]:
    """What the LoRA files are that a form names."""
    found = []
    for path, value in values.items():
        if path in known and offered(name, known[path])["holds"] == "lora":
            files = value if isinstance(value, list) else [value]
            for file in (pathlib.Path(text) for text in files if isinstance(text, str)):
                with contextlib.suppress(OSError):
                    found.append(head(file))
    return found


def said(error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, Mistake):
        what = error.filename or "the disk"
        return f"{what}: {error.strerror or error}; check the path, its rights and its room"
    return str(error)


def listed(folders: Iterable[pathlib.Path]) -> Iterator[pathlib.Path]:
    """Files of weights and diffusers folders below some folders, links followed."""
    seen: set[str] = set()
    for folder in dict.fromkeys(folders):
        for where, inside, names in os.walk(folder, followlinks=True):
            real = os.path.realpath(where)
            if real in seen:
                inside.clear()
                continue
            seen.add(real)
            here = pathlib.Path(where)
            if "model_index.json" in names:
                inside.clear()
                yield here
                continue
            inside[:] = sorted(name for name in inside if not name.startswith("."))
            yield from (here / name for name in sorted(names) if name.lower().endswith(WEIGHTS))


def described(files: Iterable[pathlib.Path]) -> Iterator[dict[str, object]]:
    """The newest first."""
    found = []
    for path in files:
        with contextlib.suppress(OSError):
            about = path.stat()
            found.append((about.st_mtime, str(path), None if path.is_dir() else about.st_size))
    for when, path, size in sorted(found, reverse=True)[:MOST]:
        yield {"path": path, "name": pathlib.Path(path).name, "bytes": size, "when": when}
