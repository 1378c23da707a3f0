"""Programs in processes of their own, ours and sd-scripts', with their time and peak memory (Linux)."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time

from benchmarks.models import cache

ROOT = pathlib.Path(__file__).resolve().parents[1]
PEAK = """
import atexit, pathlib
@atexit.register
def told():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    pathlib.Path({peak!r}).write_text(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""  # by the process itself: what the system tells of it at its end begins with who started it
OURS = """
import runpy, sys
sys.argv = ["lora_train", *{words!r}]
runpy.run_module("lora_train", run_name="__main__", alter_sys=True)
"""
STAND_IN = """
import importlib.abc, importlib.machinery, runpy, sys, types
class Kind(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Thing
class Thing(metaclass=Kind):
    def __init__(self, *args, **kwargs): pass
    def __getattr__(self, name): return type(self).__getattr__(Thing, name) if name[:2] == "__" else Thing
    def __call__(self, *args, **kwargs): return Thing()
class Module(types.ModuleType):
    __path__ = []
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Thing
class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {missing!r}:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
    def create_module(self, spec): return Module(spec.name)
    def exec_module(self, module): pass
sys.meta_path.insert(0, Finder())
sys.path[:0] = [{peer!r}, {script!r}.rpartition('/')[0]]
sys.argv = [{script!r}, *{words!r}]
runpy.run_path({script!r}, run_name="__main__")
"""
OTHERS = (
    "toml",
    "torchvision",
    "cv2",
    "imagesize",
    "voluptuous",
    "einops",
    "tqdm",
    "accelerate",
    "wandb",
    "lpips",
)


@dataclasses.dataclass(frozen=True)
class Ran:
    """What a process came to."""

    wall: float  # seconds
    cpu: float
    peak: float  # MiB
    whole: bool = True  # False: it was killed, for its memory, and numbers are those up to then

    def __str__(self) -> str:
        text = f"wall {self.wall:8.2f} s, cpu {self.cpu:8.2f} s, peak {self.peak:8.0f} MiB"
        return text if self.whole else f"{text}, then killed for its memory"


def ran(text: str) -> Ran:
    """Run a program to its end, or until the system kills it.

    Raises:
        SystemExit: it failed; the message is its last words.
    """
    peak = cache() / "peak.txt"
    words = [sys.executable, "-c", PEAK.format(peak=str(peak)) + text]
    start = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT) as process:
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    took, cpu = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    if process.returncode == -signal.SIGKILL:
        return Ran(took, cpu, usage.ru_maxrss / 1024, whole=False)
    if process.returncode:
        raise SystemExit(said.decode(errors="replace")[-2000:])
    return Ran(took, cpu, int(peak.read_text()) / 1024)


def ours(*words: object) -> Ran:
    return ran(OURS.format(words=[*map(str, words)]))


def theirs(peer: pathlib.Path, script: str, *words: object, unused: tuple[str, ...] = ()) -> Ran:
    """A script of sd-scripts'.

    Args:
        unused: packages that it imports without need. They are stood in for as well, for with a torchvision
            that is not there transformers does not load; what that saves is theirs.
    """
    missing = [*unused, *(name for name in OTHERS if not _found(name))]
    text = STAND_IN.format(
        missing=missing, peer=str(peer), script=str(peer / script), words=[*map(str, words)]
    )
    return ran(text)


def _found(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None
