"""Trackers: TensorBoard and wandb, as watchers that are shown numbers and pictures."""

from __future__ import annotations

import importlib.util
import inspect
import json
import logging
import os
import pathlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lora_train.errors import Mistake
from lora_train.job import Output
from lora_train.toml import read_toml
from lora_train.train.events import Progress, Watcher
from lora_train.values import either, shown

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

PROJECT = "network_train"  # as sd-scripts
OFFLINE = ("offline", "disabled", "dryrun")  # values of WANDB_MODE with which no key is needed
OWN = ("dir", "config", "project", "settings", "mode", "id", "resume")  # of wandb.init, not for the file


def numbers(progress: Progress) -> dict[str, float]:
    """What a step is logged as, under the names sd-scripts gives them."""
    found = {"loss/current": progress.loss, "loss/average": progress.average}
    for part, rate in progress.rates.items():
        found[f"lr/{'textencoder' if part.startswith('te') else part}"] = rate
    if progress.ends_epoch:
        found["loss/epoch_average"] = progress.average
    return {**found, **progress.norms}


class Tracker(Watcher):
    """A watcher that is also shown samples."""

    def pictured(self, progress: Progress, number: int, text: str, image: Image.Image) -> None:
        """One sample: the how many-th of its moment, its prompt, and what was drawn."""


class TensorBoard(Tracker):
    def __init__(self, folder: pathlib.Path, project: str, config: Mapping, more: Mapping):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / project), **more)
        if config:
            lines = [f"| {path} | {shown(value)} |" for path, value in config.items()]
            self.writer.add_text("settings", "\n".join(["| setting | value |", "|---|---|", *lines]))

    def measured(self, progress: Progress) -> None:
        for name, value in numbers(progress).items():
            self.writer.add_scalar(name, value, progress.step)

    def validated(self, progress: Progress, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, progress.step)

    def pictured(self, progress: Progress, number: int, text: str, image: Image.Image) -> None:
        import numpy as np

        pixels = np.asarray(image.convert("RGB"))
        self.writer.add_image(f"sample_{number}", pixels, progress.step, dataformats="HWC")

    def finished(self, progress: Progress, error: BaseException | None) -> None:
        self.writer.close()


class Wandb(Tracker):
    """wandb also records, of its own accord, the command line with keys in it, the names of folders, the
    machine, the repository around it and all that is printed: here it is told not to."""

    def __init__(self, folder: pathlib.Path, project: str, config: Mapping, more: Mapping):
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        quiet = {
            "console": "off", "disable_git": True, "save_code": False, "disable_code": True,
            "x_disable_meta": True, "x_disable_stats": True, "x_disable_machine_info": True, "silent": True,
        }  # fmt: skip
        known = getattr(wandb.Settings, "model_fields", quiet)  # not every version has each
        settings = wandb.Settings(**{name: value for name, value in quiet.items() if name in known})
        self.run = wandb.init(
            project=project, dir=str(folder), config=dict(config), settings=settings, **more
        )

    def measured(self, progress: Progress) -> None:
        self.run.log(numbers(progress), step=progress.step)

    def validated(self, progress: Progress, numbers: dict[str, float]) -> None:
        self.run.log(numbers, step=progress.step)

    def pictured(self, progress: Progress, number: int, text: str, image: Image.Image) -> None:
        import wandb

        self.run.log({f"sample_{number}": wandb.Image(image, caption=text)}, step=progress.step)

    def finished(self, progress: Progress, error: BaseException | None) -> None:
        self.run.finish(exit_code=0 if error is None else 1)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


TRACKERS = {"tensorboard": TensorBoard, "wandb": Wandb}


class Lenient(Tracker):
    """A tracker that a run can go on without: at its first failure one line is said, and it is left alone."""

    def __init__(self, kind: str, inner: Tracker):
        self.kind, self.inner = kind, inner

    def _told(self, what: str, *told: object) -> None:
        if self.inner is None:
            return
        try:
            getattr(self.inner, what)(*told)
        except Exception as e:  # noqa: BLE001 (other people's code, disk and network)
            self.inner = None
            log.warning(
                "%s failed (%s); the run goes on without it, metrics.jsonl has all numbers", self.kind, e
            )

    def started(self, progress: Progress) -> None:
        self._told("started", progress)

    def measured(self, progress: Progress) -> None:
        self._told("measured", progress)

    def validated(self, progress: Progress, numbers: dict[str, float]) -> None:
        self._told("validated", progress, numbers)

    def pictured(self, progress: Progress, number: int, text: str, image: Image.Image) -> None:
        self._told("pictured", progress, number, text, image)

    def finished(self, progress: Progress, error: BaseException | None) -> None:
        self._told("finished", progress, error)


def unready(output: Output) -> list[str]:
    """What keeps the trackers asked for from working, before a run is begun."""
    missing = [kind for kind in output.trackers if importlib.util.find_spec(kind) is None]
    complaints = [
        f"output.log_with = {output.log_with}: expected the package {kind}; pip install {kind}"
        for kind in missing
    ]
    if missing:
        return complaints
    if "wandb" in output.trackers and not _allowed():
        complaints.append(
            f"output.log_with = {output.log_with}: expected a key of wandb; run wandb login, set "
            "WANDB_API_KEY, give --wandb_api_key, or keep all on this machine with WANDB_MODE=offline"
        )
    try:
        tables = tables_of(output)
    except Mistake as e:
        return [*complaints, *str(e).splitlines()]
    lead = f"output.log_tracker_config = {output.log_tracker_config}"
    for kind in output.trackers:
        known = _parameters(kind)
        complaints += [
            f"{lead}: {kind}.{name}: expected {either(known)}"
            for name in tables.get(kind, {})
            if name not in known
        ]
    return complaints


def _allowed() -> bool:
    if os.environ.get("WANDB_MODE") in OFFLINE or os.environ.get("WANDB_API_KEY"):
        return True
    import wandb

    if "prompt" in inspect.signature(wandb.login).parameters:
        return bool(wandb.login(prompt=False))
    return bool(wandb.api.api_key)  # wandb of before 2026


def _parameters(kind: str) -> list[str]:
    """What the file may say of a tracker."""
    if kind == "wandb":
        import wandb

        return [name for name in inspect.signature(wandb.init).parameters if name not in OWN]
    from torch.utils.tensorboard import SummaryWriter

    return [name for name in inspect.signature(SummaryWriter).parameters if name != "log_dir"]


def tables_of(output: Output) -> dict[str, dict[str, object]]:
    """{tracker: {name: value}} of log_tracker_config.

    Raises:
        Mistake: it cannot be read, or has other things than tables of trackers.
    """
    if output.log_tracker_config is None:
        return {}
    lead = "output.log_tracker_config = "
    try:
        tables = read_toml(output.log_tracker_config)
    except Mistake as e:
        raise Mistake(f"{lead}{e}") from e
    for name, table in tables.items():
        if name not in TRACKERS or not isinstance(table, dict):
            raise Mistake(
                f"{lead}{output.log_tracker_config}: {name}: expected tables [tensorboard] and [wandb]"
            )
    return tables


def trackers(output: Output, records: pathlib.Path, config: Mapping[str, object]) -> list[Lenient]:
    """Those asked for, opened.

    Args:
        records: where wandb's files go if there is no logging_dir.
        config: the run's settings, without places; used if asked for.

    Raises:
        Mistake: one cannot be opened.
    """
    if output.wandb_run_name and "wandb" not in output.trackers:
        log.info("wandb_run_name has no effect here: nothing is logged to wandb")
    if not output.trackers:
        return []
    stamp = f"{output.log_prefix or ''}{time.strftime('%Y%m%d%H%M%S')}"
    folder = records if output.logging_dir is None else output.logging_dir / stamp
    tables = tables_of(output)
    kept = {k: json.dumps(v) if isinstance(v, (list, tuple, dict)) else v for k, v in config.items()}
    found = []
    for kind in output.trackers:
        more = dict(tables.get(kind, {}))
        if kind == "wandb" and output.wandb_run_name:
            more.setdefault("name", output.wandb_run_name)
        project = output.log_tracker_name or PROJECT
        try:
            inner = TRACKERS[kind](folder, project, kept if output.log_config else {}, more)
        except Exception as e:  # noqa: BLE001 (whatever their code raises, it is in place of a start)
            raise Mistake(
                f"output.log_with = {output.log_with}: {kind} cannot be opened ({_line(e)}); look at "
                "log_tracker_config and the network, or leave it out"
            ) from e
        found.append(Lenient(kind, inner))
    return found
