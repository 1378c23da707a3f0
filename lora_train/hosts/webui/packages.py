"""Optional packages, put into the WebUI's environment when a person asks for one, and taken out again."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from lora_train.errors import Mistake

if TYPE_CHECKING:
    from lora_train.run.desk import Desk
    from lora_train.ui.ask import Ask

LONGEST = 1800  # seconds that one call of pip may take
HEAVY = re.compile(r"torch|torchvision|triton|nvidia-.*|cuda-.*|tensorflow|jax|jaxlib|xformers")
UNREACHED = re.compile(
    r"NewConnectionError|ConnectionError|Connection broken|Failed to establish|ReadTimeout|ConnectTimeout"
    r"|Temporary failure in name resolution|ProxyError|SSLError", re.IGNORECASE)  # fmt: skip
LATER = "comes with a later version"
# what is asked of the environment: every distribution, its version, and the names of what it requires
ASK = """
import importlib.metadata as m, json, re
print(json.dumps([[d.metadata["Name"], d.version, [re.match(r"[\\w.-]+", r)[0] for r in d.requires or ()
    if "extra ==" not in r]] for d in m.distributions() if d.metadata["Name"]]))
"""


class Package(NamedTuple):
    name: str  # on the package index
    title: str
    use: str  # what needs it


PACKAGES = (
    Package("wandb", "wandb", "log_with = wandb: runs on wandb.ai"),
    Package("tensorboard", "TensorBoard", "log_with = tensorboard: curves in TensorBoard"),
    Package("tomli", "tomli", "settings as TOML files where Python is 3.10"),
    Package("bitsandbytes", "bitsandbytes", "optimizers in 8 bits, and paged ones"),
    Package("prodigyopt", "Prodigy", "optimizer Prodigy"),
    Package("schedulefree", "schedule-free", "optimizers without a schedule"),
    Package("came-pytorch", "CAME", "optimizer CAME"),
    Package("dadaptation", "D-Adaptation", "optimizers DAdapt…"),
    Package("lion-pytorch", "Lion", "optimizer Lion"),
    Package("prodigy-plus-schedule-free", "Prodigy Plus", "optimizer ProdigyPlusScheduleFree"),
    Package("pytorch-optimizer", "pytorch-optimizer", "optimizers AdEMAMix, Tiger, Muon, and many by class"),
    Package("onnxruntime", "ONNX Runtime", f"taggers, which {LATER}"),
    Package("rembg", "rembg", f"masks from backgrounds, which {LATER}"),
)


class Found(NamedTuple):
    version: str
    requires: frozenset[str]


class Outcome(NamedTuple):
    code: int
    text: str  # what it wrote to its output and error


@dataclasses.dataclass
class Environment:
    """The one that `python` belongs to, as pip sees it. Nothing is changed but what is named."""

    python: str

    def installed(self) -> dict[str, Found]:
        done = subprocess.run(
            [self.python, "-c", ASK], capture_output=True, text=True, timeout=60, check=True
        )
        found: dict[str, Found] = {}
        for name, version, requires in json.loads(done.stdout):  # as imports do, the first one found counts
            found.setdefault(plain(name), Found(version, frozenset(map(plain, requires))))
        return found

    def complaints(self) -> set[str]:
        """What `pip check` finds: requirements of installed packages that are not met."""
        lines = self.pip("check").text.splitlines()
        return {line for line in lines if " requires " in line or " has requirement " in line}

    def pip(self, *words: str) -> Outcome:
        around = {**os.environ, "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        try:
            done = subprocess.run(
                [self.python, "-m", "pip", *words], capture_output=True, text=True, timeout=LONGEST,
                check=False, env=around, stdin=subprocess.DEVNULL)  # fmt: skip
        except subprocess.TimeoutExpired:
            return Outcome(1, f"pip was still at work after {LONGEST // 60} minutes")
        return Outcome(done.returncode, f"{done.stdout}\n{done.stderr}")

    def wanted(self, name: str, pins: Mapping[str, str]) -> dict[str, str]:
        """What `name` needs beside what is here: name -> version, itself among them.

        pip chooses versions that get along with every installed one, which it may not touch.
        """
        fixed = {**pins, **{plain(n): found.version for n, found in self.installed().items()}}
        lines = [f"{n}=={version}" for n, version in sorted(fixed.items()) if n != plain(name)]
        with tempfile.TemporaryDirectory() as folder:
            limits, report = pathlib.Path(folder, "limits.txt"), pathlib.Path(folder, "report.json")
            limits.write_text("\n".join(lines), encoding="utf-8")
            asked = (
                "install",
                "--dry-run",
                "--quiet",
                "--prefer-binary",
                "--retries",
                "1",
                "--timeout",
                "20",
            )
            done = self.pip(*asked, "--report", str(report), "-c", str(limits), name)
            if done.code or not report.is_file():
                raise Mistake(_reason(name, done.text))
            rows = json.loads(report.read_text(encoding="utf-8"))["install"]
        return needed(plain(name), [row["metadata"] for row in rows])


def needed(name: str, chosen: list[dict]) -> dict[str, str]:
    """Of what pip would install, what is there for `name`: not what others lack already."""
    rows = {plain(row["name"]): row for row in chosen}
    reached, ahead = {}, [name]
    while ahead:
        row = rows.pop(ahead.pop(), None)
        if row is not None:
            reached[plain(row["name"])] = row["version"]
            ahead += [plain(re.match(r"[\w.-]+", text)[0]) for text in row.get("requires_dist", ())]
    return reached


class Packages:
    """The table above in one environment. What was put there is written down, and just that is removed."""

    def __init__(self, environment: Environment, ledger: pathlib.Path, pins: Mapping[str, str] | None = None):
        """pins: what the WebUI wants of packages, also of those that are not there."""
        self.environment, self.ledger, self.pins = environment, ledger, dict(pins or {})
        self.lock = threading.Lock()
        self.busy: str | None = None

    def list(self) -> list[dict[str, object]]:
        here, ours = self.environment.installed(), self._ours()
        return [
            {
                "name": p.name, "title": p.title, "use": p.use, "ours": p.name in ours,
                "installed": here[plain(p.name)].version if plain(p.name) in here else None,
                "added": sorted(ours.get(p.name, ())), "busy": self.busy == p.name,
            }
            for p in PACKAGES
        ]  # fmt: skip

    def install(self, name: str) -> dict[str, object]:
        """Adds the package and what it lacks, `--no-deps`; undone if `pip check` likes it less than before.

        Raises:
            Mistake: it cannot be had, or not without changing something that is here.
        """
        _known(name)
        with self._alone(name):
            before, complaints = self.environment.installed(), self.environment.complaints()
            if plain(name) in before:
                raise Mistake(f"{name}: is installed already, version {before[plain(name)].version}")
            wanted = self.environment.wanted(name, self.pins)
            if heavy := sorted(n for n in wanted if HEAVY.fullmatch(n) or n in before):
                raise Mistake(f"{name}: would bring {', '.join(heavy)}, which is the WebUI's own to choose")
            self._write({**self._ours(), name: wanted})  # first: a process that is killed can be undone
            exact = [f"{n}=={version}" for n, version in wanted.items()]
            done = self.environment.pip("install", "--no-deps", "--prefer-binary", "--quiet", *exact)
            worse = set() if done.code else self.environment.complaints() - complaints
            if done.code or worse:
                self._take_out(name, keep=before)
                said = "; ".join(sorted(worse)) if worse else _reason(name, done.text)
                raise Mistake(f"{said}\n{name} was taken out again; nothing else was changed")
        importlib.invalidate_caches()
        text = ", ".join(f"{n} {version}" for n, version in wanted.items())
        return {"notes": [f"Added {text}. Nothing else was changed."], "packages": self.list()}

    def uninstall(self, name: str) -> dict[str, object]:
        """Removes what `install` added, but for what others have come to need."""
        _known(name)
        with self._alone(name):
            if name not in self._ours():
                raise Mistake(f"{name}: was not installed from here, so it is not removed from here")
            gone = self._take_out(name, keep={})
        importlib.invalidate_caches()
        note = f"Removed {', '.join(gone) or 'nothing: others need it'}. Restart the WebUI to unload it."
        return {"notes": [note], "packages": self.list()}

    def _take_out(self, name: str, keep: Mapping[str, Found]) -> list[str]:
        ours = self._ours()
        mine = {n for n in ours.pop(name, {}) if n not in keep}
        shared = {n for others in ours.values() for n in others}
        here = self.environment.installed()
        gone = {n for n in mine - shared if n in here}
        while asked := gone & {n for k, found in here.items() if k not in gone for n in found.requires}:
            gone -= asked
        if gone:
            done = self.environment.pip("uninstall", "--yes", "--quiet", *sorted(gone))
            if done.code:
                raise Mistake(
                    f"{name}: could not be removed: {_last(done.text)}; restart the WebUI and try again"
                )
        self._write(ours)
        return sorted(gone)

    @contextlib.contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """One at a time, and nobody waits."""
        if not self.lock.acquire(blocking=False):
            raise Mistake(f"{self.busy}: is being installed or removed; wait until that is done")
        self.busy = name
        try:
            yield
        finally:
            self.busy = None
            self.lock.release()

    def _ours(self) -> dict[str, dict[str, str]]:
        try:
            return json.loads(self.ledger.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def _write(self, ours: Mapping[str, Mapping[str, str]]) -> object:
        if not ours:
            return self.ledger.unlink(missing_ok=True)
        self.ledger.parent.mkdir(parents=True, exist_ok=True)
        part = self.ledger.with_suffix(".part")
        part.write_text(json.dumps(ours, indent=1, sort_keys=True), encoding="utf-8")
        return part.replace(self.ledger)


def plain(name: str) -> str:
    """A package's name as all its spellings have it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(file: pathlib.Path) -> dict[str, str]:
    """name -> version, of the lines of a requirements file that name just one."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return {}
    found = (re.match(r"\s*([\w.-]+)\s*==\s*([\w.+!-]+)\s*(?:#.*)?$", line) for line in lines)
    return {plain(m[1]): m[2] for m in found if m}


def _known(name: str) -> None:
    if name not in {p.name for p in PACKAGES}:
        raise Mistake(f"name = {name!r}: expected one of {', '.join(p.name for p in PACKAGES)}")


def _reason(name: str, text: str) -> str:
    if UNREACHED.search(text):
        return f"{name}: the package index cannot be reached; try again with a connection"
    if "no such option" in text:
        return f"{name}: this environment's pip is older than 22.2; update it, or install {name} by hand"
    if "ResolutionImpossible" in text or "No matching distribution" in text:
        return f"{name}: no version of it gets along with the packages that this WebUI has"
    return f"{name}: pip could not install it: {_last(text)}"


def _last(text: str) -> str:
    """The line that says most: pip's last error, else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["it said nothing"])[-1]


def _of_webui() -> Packages:
    from modules import paths

    from lora_train.hosts.webui.folders import folders

    return _packages(pathlib.Path(paths.script_path), folders().desk)


@functools.cache
def _packages(webui: pathlib.Path, desk: pathlib.Path) -> Packages:
    pins = pinned(webui / "requirements_versions.txt")
    return Packages(Environment(sys.executable), desk / "packages.json", pins)


def _may_change(desk: Desk) -> None:
    """As for extensions: not while others can reach the WebUI; and not below a run that may import them."""
    from modules import shared

    if getattr(shared.cmd_opts, "disable_extension_access", False):
        raise Mistake(
            "packages cannot be changed while the WebUI is open to others (--listen, --share); the flag "
            "--enable-insecure-extension-access allows it, as it does for extensions"
        )
    run = desk.status(0)["run"]
    if run and run["state"] in ("running", "paused"):
        raise Mistake(f"{run['name']} is training; change packages when it is done")


def _install(desk: Desk, ask: Ask) -> dict[str, object]:
    _may_change(desk)
    return _of_webui().install(str(ask.json.get("name", "")))


def _uninstall(desk: Desk, ask: Ask) -> dict[str, object]:
    _may_change(desk)
    return _of_webui().uninstall(ask.query.get("name", ""))


ROUTES = (  # for Api.answer
    ("GET", "/packages", lambda desk, ask: _of_webui().list()),
    ("POST", "/packages", _install),
    ("DELETE", "/packages", _uninstall),
)
