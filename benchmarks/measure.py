"""Time and memory of steps, and how they are told."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import statistics
import time
from collections.abc import Callable, Mapping

STATUS = pathlib.Path("/proc/self/status")


@dataclasses.dataclass
class Times:
    """Seconds of each step."""

    cpu: list[float] = dataclasses.field(default_factory=list)
    wall: list[float] = dataclasses.field(default_factory=list)

    def take(self, step: Callable[[], None]) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        step()
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(time.perf_counter() - wall)


def alternating(steps: Mapping[str, Callable[[], None]], count: int, warm: int = 1) -> dict[str, Times]:
    """`count` steps of each, in turn, so that what else the machine does meets all alike."""
    times = {name: Times() for name in steps}
    for i in range(warm + count):
        for name, step in steps.items():
            times[name].take(step) if i >= warm else step()
    return times


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):7.3f} ({min(values):.3f} to {max(values):.3f})"


def ratio(ours: list[float], peers: list[float]) -> str:
    """Of the medians; in brackets of the pairs, the least and the most."""
    pairs = [a / b for a, b in zip(ours, peers, strict=True)]
    return f"{statistics.median(ours) / statistics.median(peers):.2f} ({min(pairs):.2f} to {max(pairs):.2f})"


def told(times: Mapping[str, Times]) -> str:
    """The first is ours, the second theirs."""
    a, b = times.values()
    lines = [f"  {name:5} cpu {spread(t.cpu)} s, wall {spread(t.wall)} s" for name, t in times.items()]
    return "\n".join([*lines, f"  ratio cpu {ratio(a.cpu, b.cpu)}, wall {ratio(a.wall, b.wall)}"])


def forget_peak() -> None:
    """The process's peak starts from what it holds now (Linux)."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def megabytes(field: str = "VmHWM") -> float:
    """VmHWM: the peak; VmRSS: now (Linux)."""
    return int(re.search(rf"{field}:\s+(\d+)", STATUS.read_text())[1]) / 1024
