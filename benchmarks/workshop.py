"""The dataset workshop: what its report finds of planted problems, and how long it and the gallery take.

    python benchmarks/workshop.py report --pictures 5000 --each 40
    python benchmarks/workshop.py open --files 100000

Folders are made in the user's cache folder once. Each measurement is a process of its own (Linux).
"""

from __future__ import annotations

import argparse
import json
import pathlib
import random
import shutil
import subprocess
import sys
import time

from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.models import cache  # noqa: E402
from lora_train.data.memory import Memory  # noqa: E402
from lora_train.run.workroom import row  # noqa: E402
from lora_train.workshop import filter as filters  # noqa: E402
from lora_train.workshop.opened import Opened  # noqa: E402
from lora_train.workshop.report import Check  # noqa: E402
from tests.troubled import FUZZY, TAGS, TRIGGER, Troubled, encoded, wrong  # noqa: E402

PAGE = 200  # pictures


def peak() -> float:
    """MiB of this process; what getrusage tells begins with who started it."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def apart(part: str, folder: pathlib.Path, memory: pathlib.Path) -> dict:
    """One of `PARTS` in a process of its own."""
    words = [sys.executable, __file__, part, "--folder", str(folder), "--memory", str(memory)]
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)


# ── the report ──────────────────────────────────────────────────────────────────────────────────────────────


def report(told: argparse.Namespace) -> None:
    folder = cache() / f"troubled-{told.pictures}-{told.each}"
    made = Troubled(folder, told.pictures, told.each)
    if not folder.is_dir():
        began = time.perf_counter()
        made.make()
        print(f"made in {time.perf_counter() - began:.0f} s")
    made.put("outside", "link.png")
    memory = folder.with_suffix(".sqlite")
    memory.unlink(missing_ok=True)
    for how in ("cold", "warm", "warm"):
        ran = apart("found", folder, memory)
        print(f"{how}: {ran['seconds']:.1f} s, peak {ran['peak']:.0f} MiB over {ran['before']:.0f}")
    found = {kind: {frozenset(names) for names in every} for kind, every in ran["kinds"].items()}
    print(f"{ran['pictures']} pictures\nkind: planted, found, false")
    for kind, planted, seen, false in wrong(made.truth, found):
        share = f", {false / ran['pictures']:.3%} of all" if kind in FUZZY else ""
        print(f"  {kind}: {planted}, {seen}, {false}{share}")


def found(told: argparse.Namespace) -> dict:
    before, began = peak(), time.perf_counter()
    opened = Opened(told.folder, Memory(told.memory))
    seen = Check(folder=told.folder, trigger_word=TRIGGER).found(opened)
    return {
        "seconds": time.perf_counter() - began, "peak": peak(), "before": before, "pictures": len(opened),
        "kinds": {kind: [finding.names for finding in every] for kind, every in seen.kinds.items()},
    }  # fmt: skip


# ── many files ──────────────────────────────────────────────────────────────────────────────────────────────


def many(told: argparse.Namespace) -> None:
    folder = cache() / f"many-{told.files}"
    if not folder.is_dir():
        began, rng = time.perf_counter(), random.Random(1)
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for i in range(told.files):
            image = Image.new("RGB", (rng.randint(8, 40), rng.randint(8, 40)), (i % 256, i // 256 % 256, 9))
            (part / f"picture {i}.png").write_bytes(encoded(image, "PNG"))
            (part / f"picture {i}.txt").write_text(", ".join([TRIGGER, *rng.sample(TAGS, 4)]))
        part.rename(folder)
        print(f"made in {time.perf_counter() - began:.0f} s")
    memory = folder.with_suffix(".sqlite")
    memory.unlink(missing_ok=True)
    for how in ("cold", "warm"):
        ran = apart("paged", folder, memory)
        print(f"{how}: " + ", ".join(f"{name} {value:.2f}" for name, value in ran.items()))


def paged(told: argparse.Namespace) -> dict:
    ran, before = {}, peak()

    def timed(name: str, began: float) -> None:
        ran[name] = time.perf_counter() - began

    began = time.perf_counter()
    opened = Opened(told.folder, Memory(told.memory))
    timed("open s", began)
    names = [*opened.entries]
    for name, place in (("first page s", 0), ("middle page s", len(names) // 2)):
        began = time.perf_counter()
        for entry in names[place : place + PAGE]:
            row(opened, opened.entries[entry], {})
        timed(name, began)
    for name in ("first filter s", "next filter s"):
        began = time.perf_counter()
        holds = filters.read("sky -grass")
        ran["fit"] = len(opened.chosen(lambda entry: holds(opened, entry)))  # noqa: B023 (used at once)
        timed(name, began)
    began = time.perf_counter()
    opened.refresh()
    timed("look again s", began)
    began = time.perf_counter()
    opened.memory.keep()
    timed("keep s", began)
    return {**ran, "peak MiB": peak(), "before MiB": before}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("part", choices=("report", "open", "found", "paged"))
    ask.add_argument("--pictures", type=int, default=5000)
    ask.add_argument("--each", type=int, default=40, help="how often each problem is planted")
    ask.add_argument("--files", type=int, default=100_000)
    ask.add_argument("--folder", type=pathlib.Path)
    ask.add_argument("--memory", type=pathlib.Path)
    told = ask.parse_args()
    if told.part in ("report", "open"):
        (report if told.part == "report" else many)(told)
    else:
        print(json.dumps((found if told.part == "found" else paged)(told)))


if __name__ == "__main__":
    main()
