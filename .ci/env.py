"""Builds the project's Python environments and runs commands in them. Needs Python and nothing else.

    python3 .ci/env.py test [arguments of pytest]      runs the tests
    python3 .ci/env.py demo                            trains and shows the demo
    python3 .ci/env.py lint                            checks the code's form
    python3 .ci/env.py run ceiling -m lora_train …     anything, in the environment of that name in .ci/pins
    python3 .ci/env.py clean                           removes the environments of every version of the pins

(On Windows: py .ci/env.py test, and so on.) Environments lie outside the clone, in the user's cache folder,
each under the hash of what it is made of: changed pins make a new one, and clones share what they can.
PYTHON names the interpreter to build with; without it Python 3.11 is preferred, else the one running this.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]
PINS = ROOT / ".ci" / "pins"
VERSIONS = ("3.11", "3.13", "3.12", "3.10")  # in order of preference
COMMANDS = {
    "test": [["-m", "pytest"]],
    "demo": [["demo/run.py"]],
    "lint": [["-m", "ruff", "check", "."], ["-m", "ruff", "format", "--check", "."]],
}


def cache() -> pathlib.Path:
    home = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("LOCALAPPDATA") if os.name == "nt" else None)
    return (pathlib.Path(home) if home else pathlib.Path.home() / ".cache") / "sd-webui-lora-train"


def probe(python: str) -> str | None:
    """The version of an interpreter that can make environments; None where it cannot, or is not one."""
    ask = "import ensurepip, venv, sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", ask], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def interpreter() -> tuple[str, str]:
    """The Python to build with, and its version."""
    others = [f"python{version}" for version in VERSIONS]
    own = [sys.executable]
    candidates = own + others if sys.version_info[:2] == (3, 11) else others[:1] + own + others[1:]
    if named := os.environ.get("PYTHON"):
        candidates = [named]
    for python in candidates:
        version = probe(python)
        if version in VERSIONS:
            return python, version
    sys.exit(
        "This needs Python 3.10 to 3.13 with the modules venv and ensurepip, and finds none under the names "
        f"{', '.join(candidates)}.\nInstall one (on Debian or Ubuntu: apt-get install python3-venv), "
        "or name one: PYTHON=/path/to/python."
    )


def inside(folder: pathlib.Path) -> pathlib.Path:
    """The interpreter of an environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


@contextlib.contextmanager
def alone(path: pathlib.Path) -> Iterator[dict]:
    """Lets one process at a time in. The lock goes with its process, however that ends, and with the programs
    that were started with what this gives: a pip that outlives us is waited for."""
    with path.open("a+b") as file:
        if os.name == "nt":
            import msvcrt

            while True:
                with contextlib.suppress(OSError):  # raised after ten seconds of waiting
                    msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                    break
            yield {}
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
            yield {"pass_fds": (file.fileno(),)}


def build(folder: pathlib.Path, pins: pathlib.Path, python: str, locked: dict) -> None:
    """Leaves a file `ready` as its last act: a folder without it was interrupted and is made anew."""
    print(f"Setting up the {pins.stem} environment in {folder}: once, some minutes.", flush=True)
    began = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    quiet = [] if sys.stdout.isatty() else ["-qq"]
    pip = [str(inside(folder)), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *quiet]
    try:
        subprocess.run([python, "-m", "venv", str(folder)], check=True, **locked)
        subprocess.run([*pip, "-r", str(pins)], check=True, **locked)
        if (bare := without(pins)).is_file():
            subprocess.run([*pip, "--no-deps", "-r", str(bare)], check=True, **locked)
    except subprocess.CalledProcessError as e:
        sys.exit(f"The {pins.stem} environment could not be set up (exit status {e.returncode}); see above.")
    (folder / "ready").touch()
    print(f"Set up in {time.monotonic() - began:.0f} s.", flush=True)


def without(pins: pathlib.Path) -> pathlib.Path:
    """The pins beside these that are installed without what they ask for; there need not be any."""
    return pins.with_name(f"{pins.stem}-alone.txt")


def environment(name: str) -> pathlib.Path:
    """The interpreter of the environment with the pins of that name, built if need be."""
    pins = PINS / f"{name}.txt"
    if not pins.is_file():
        names = sorted(path.stem for path in PINS.glob("*.txt") if not path.stem.endswith("-alone"))
        sys.exit(f"{name}: no such environment; there are {', '.join(names)}.")
    python, version = interpreter()
    both = b"".join(path.read_bytes() for path in (pins, without(pins)) if path.is_file())
    key = hashlib.sha256(both + version.encode()).hexdigest()[:12]
    folder = cache() / f"{name}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with alone(folder.with_suffix(".lock")) as locked:
        # The second question finds out that the Python underneath has been removed.
        if not (folder / "ready").exists() or probe(str(inside(folder))) != version:
            build(folder, pins, python, locked)
    return inside(folder)


def run(python: pathlib.Path, arguments: Sequence[str]) -> int:
    """Runs the clone's code, and no other that PYTHONPATH may name."""
    around = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([python, *arguments], cwd=ROOT, env=around).returncode


def main(words: Sequence[str]) -> int:
    command, *rest = words or ["help"]
    if command == "clean":
        shutil.rmtree(cache(), ignore_errors=True)
        return 0
    if command == "run" and len(rest) > 1:
        return run(environment(rest[0]), rest[1:])
    if command not in COMMANDS:
        print(__doc__)
        return 0 if command == "help" else 2
    python = environment("ceiling")
    return max(run(python, [*arguments, *rest]) for arguments in COMMANDS[command])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
