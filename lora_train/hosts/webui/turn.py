"""A turn of ours: the WebUI's queue lock and its state, and the checkpoint that the job is of."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch

from lora_train.errors import Mistake
from lora_train.models.whole import Changes, rewrite

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

ASKED = 0.5  # seconds between two questions whether to wait on
CHECKPOINT = "model.pretrained_model_name_or_path"
STATE = (
    "skipped", "interrupted", "stopping_generation", "job", "job_no", "job_count", "job_timestamp",
    "sampling_step", "sampling_steps", "current_latent", "current_image", "current_image_sampling_step",
    "textinfo", "time_start", "processing_has_refined_job_count",
)  # fmt: skip


@contextlib.contextmanager
def turn(waiting: Callable[[], None]) -> Iterator[None]:
    """Nobody generates, and no checkpoint is changed, inside `with`.

    Args:
        waiting: see `lora_train.host.Host.borrow`.
    """
    from modules import call_queue, shared

    waiting()
    if not call_queue.queue_lock.acquire(blocking=False):
        log.info("Waiting for the WebUI: %s", shared.state.job or "another job has the model")
        Place(call_queue.queue_lock).wait(waiting)
    try:
        loaded()
        with state(), _last_kept():
            shared.state.begin("lora_train")
            shared.state.textinfo = "LoRA training"
            try:
                yield
            finally:
                shared.state.end()
    finally:
        call_queue.queue_lock.release()


class Place:
    """A place in the row of those who wait for a lock, that can be given up.

    The WebUI's lock lets go of nobody who waits, and hands itself on in the order they came. So a thread
    waits there in our stead, and hands it on at once where we have left.
    """

    def __init__(self, lock: threading.Lock):
        self.lock, self.leaving = lock, threading.Lock()
        self.came, self.left = threading.Event(), False
        threading.Thread(target=self._stand, name="lora_train turn", daemon=True).start()

    def _stand(self) -> None:
        self.lock.acquire()
        with self.leaving:
            if self.left:
                self.lock.release()
            else:
                self.came.set()

    def wait(self, waiting: Callable[[], None]) -> None:
        """Until the lock is ours, unless `waiting` raises."""
        try:
            while not self.came.wait(ASKED):
                waiting()
        except BaseException:
            with self.leaving:
                self.left = True
                if self.came.is_set():
                    self.lock.release()
            raise


@contextlib.contextmanager
def state() -> Iterator[None]:
    """What the WebUI says it is doing is afterwards what it was."""
    from modules import shared

    before = {name: getattr(shared.state, name) for name in STATE if hasattr(shared.state, name)}
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(shared.state, name, value)


@contextlib.contextmanager
def _last_kept() -> Iterator[None]:
    """What a person generated last stays that, although the WebUI writes down each picture's settings."""
    from modules import shared

    before = getattr(shared.cmd_opts, "no_prompt_history", False)
    shared.cmd_opts.no_prompt_history = True
    try:
        yield
    finally:
        shared.cmd_opts.no_prompt_history = before


def loaded(*, load: bool = True) -> nn.Module:
    """The model that is loaded, after the load at the start, which does not hold the queue's lock.

    Args:
        load: let the WebUI load its checkpoint where it has not yet.

    Raises:
        Mistake: there is none.
    """
    from modules import sd_models, shared

    data = sd_models.model_data
    with getattr(data, "lock", contextlib.nullcontext()):  # until what follows a load has been done as well
        model = data.sd_model  # shared.sd_model would take the lock once more, where nothing is loaded yet
    if model is None and load:
        model = shared.sd_model  # loads it
    if model is None:
        raise Mistake("no model is loaded; choose a checkpoint at the top of the page")
    return model


@dataclasses.dataclass
class Choice:
    """A checkpoint of the WebUI and the autoencoder in it."""

    info: object  # the WebUI's CheckpointInfo
    vae: str | None  # a file; None: the checkpoint's own

    @classmethod
    def now(cls) -> Choice:
        from modules import sd_vae, shared

        return cls(shared.sd_model.sd_checkpoint_info, sd_vae.loaded_vae_file)

    def load(self) -> None:
        """Nothing where it is there already; what the WebUI's settings say of it stays."""
        from modules import sd_models, sd_vae, shared

        with _settings_kept():
            try:
                if shared.sd_model is None or shared.sd_model.sd_checkpoint_info.filename != self.filename:
                    sd_models.reload_model_weights(info=self.info)
                if sd_vae.loaded_vae_file != self.vae:
                    sd_vae.reload_vae_weights(shared.sd_model, vae_file=self.vae)
            except (MemoryError, torch.cuda.OutOfMemoryError):
                raise  # what to do then does not depend on the file
            except Exception as e:  # the WebUI's loader raises anything on a file that is damaged or no model
                log.warning("The WebUI's loader says:", exc_info=True)
                raise Mistake(self._lost(f" ({e})")) from e
        if shared.sd_model is None or shared.sd_model.sd_checkpoint_info.filename != self.filename:
            raise Mistake(self._lost(", and its console says why"))

    def _lost(self, why: str) -> str:
        return f"{CHECKPOINT} = {self.filename}: the WebUI could not load it{why}; choose another checkpoint"

    @property
    def filename(self) -> str:
        return self.info.filename


@contextlib.contextmanager
def _settings_kept() -> Iterator[None]:
    from modules import shared

    names = ("sd_model_checkpoint", "sd_checkpoint_hash", "sd_vae")
    before = {name: shared.opts.data[name] for name in names if name in shared.opts.data}
    try:
        yield
    finally:
        for name in names:
            if name in before:
                shared.opts.data[name] = before[name]
            else:
                shared.opts.data.pop(name, None)


def wanted(checkpoint: pathlib.Path | None, vae: pathlib.Path | None) -> Choice | None:
    """What a job names; None: it names nothing.

    Raises:
        Mistake: the WebUI has no such file.
    """
    if checkpoint is None and vae is None:
        return None
    now = Choice.now()
    if checkpoint is not None and not same_file(checkpoint, now.filename):
        now = Choice(listed(checkpoint), None)
    if vae is not None:
        if not vae.is_file():
            raise Mistake(f"model.vae = {vae}: no such file")
        now.vae = now.vae if now.vae and same_file(vae, now.vae) else str(vae)
    return now


def rewritten(info: object, changes: Changes, file: pathlib.Path, dtype: torch.dtype) -> None:
    """See `lora_train.host.Lent.rewrite`; the list of checkpoints has it at once."""
    from modules import sd_models

    rewrite(pathlib.Path(info.filename), changes, file, dtype)
    sd_models.list_models()


def listed(checkpoint: pathlib.Path) -> object:
    """The WebUI's entry of a checkpoint."""
    from modules import sd_models

    for again in (False, True):
        if again:
            sd_models.list_models()
        for info in sd_models.checkpoints_list.values():
            if same_file(checkpoint, info.filename):
                return info
    where = "is not in the WebUI's folder of checkpoints" if checkpoint.exists() else "no such file"
    raise Mistake(
        f"{CHECKPOINT} = {checkpoint}: {where}; expected one of those at the top of the page, or leave it "
        "empty to train on the loaded one"
    )


def same_file(a: pathlib.Path | str, b: pathlib.Path | str) -> bool:
    return pathlib.Path(a).resolve() == pathlib.Path(b).resolve()


@contextlib.contextmanager
def chosen(choice: Choice | None) -> Iterator[Choice]:
    """The job's checkpoint inside `with`; afterwards the person's own again."""
    from modules import sd_models

    sd_models.reload_model_weights()  # a refiner may have been left in its place
    before = Choice.now()
    mine = choice or before
    try:
        mine.load()
        with _spare():
            yield mine
    finally:
        before.load()


@contextlib.contextmanager
def _spare() -> Iterator[None]:
    """Other checkpoints that the WebUI keeps loaded wait in the computer's memory."""
    from modules import devices, sd_models, shared

    others = []
    for model in getattr(sd_models.model_data, "loaded_sd_models", []):
        device = next(model.parameters()).device
        if model is not shared.sd_model and device.type not in ("cpu", "meta"):
            sd_models.send_model_to_cpu(model)
            others.append((model, device))
    try:
        yield
    finally:
        for model, device in others:
            if not model.lowvram:
                model.to(device)
        devices.torch_gc()
