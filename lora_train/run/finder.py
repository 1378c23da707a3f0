"""The finder of learning rates: a short run whose rate rises until its loss does, of which nothing is kept.

Source: Smith 2015, arXiv:1506.01186, section 3.3.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from lora_train.errors import Mistake
from lora_train.job import Job, Output, Place
from lora_train.run.classes import housed
from lora_train.run.control import Control
from lora_train.run.session import run
from lora_train.run.store import whole
from lora_train.train.events import Progress, Watcher
from lora_train.train.finite import Ruined

if TYPE_CHECKING:
    from lora_train.host import Host

SMOOTH = 0.95  # share of the mean that stays, for losses of single steps differ by their timesteps
WORSE = 2.0  # times the lowest mean at which it is over
FIRST = 10  # steps before that is looked at
BELOW = 10  # times that the suggested rate lies below the one with the lowest mean


@dataclasses.dataclass(frozen=True)
class Sweep:
    """From which rate to which, in how many steps."""

    low: float = 1e-6
    high: float = 1e-1
    steps: int = 200

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high <= 100:
            raise Mistake(f"from_rate, to_rate = {self.low}, {self.high}: expected a low rate and a high one")
        if not 2 * FIRST <= self.steps <= 100_000:
            raise Mistake(f"find_steps = {self.steps}: expected {2 * FIRST} to 100000")

    @property
    def factor(self) -> float:
        """What the rate is multiplied with after each step."""
        return (self.high / self.low) ** (1 / (self.steps - 1))


@dataclasses.dataclass
class Found(Watcher):
    """A step's rate, its loss, and the mean of the losses so far; stops the run where that has risen."""

    sweep: Sweep
    control: Control
    points: list[tuple[float, float, float]] = dataclasses.field(default_factory=list)
    mean: float = 0.0

    def measured(self, progress: Progress) -> None:
        if not math.isfinite(progress.loss):
            return
        self.mean = SMOOTH * self.mean + (1 - SMOOTH) * progress.loss
        seen = self.mean / (1 - SMOOTH ** (len(self.points) + 1))
        self.points.append((self.sweep.low * self.sweep.factor ** (progress.step - 1), progress.loss, seen))
        if len(self.points) > FIRST and seen > WORSE * min(mean for _, _, mean in self.points[FIRST:]):
            self.control.stop()

    def suggested(self) -> float | None:
        """A tenth of the rate with the lowest mean; None where there is no valley."""
        later = self.points[FIRST:]
        if not later or later[0][2] <= min(mean for _, _, mean in later):
            return None
        return float(f"{min(later, key=lambda point: point[2])[0] / BELOW:.2g}")

    def written(self) -> dict[str, object]:
        names = ("rate", "loss", "mean")
        rows = [dict(zip(names, point, strict=True)) for point in self.points]
        return {**dataclasses.asdict(self.sweep), "suggested": self.suggested(), "points": rows}


def find(
    job: Job, output: Output, place: Place, host: Host, sweep: Sweep, *, watchers: Sequence[Watcher] = ()
) -> tuple[Found, pathlib.Path]:
    """Sweep, and write what was found: a table as JSON, and beside it a picture of the curve.

    Raises:
        Mistake: the job cannot be done, or its optimizer finds rates by itself.
    """
    if job.optimizer.ADAPTS or job.optimizer.chooses:
        raise Mistake(f"optimizer.kind = {job.optimizer.kind()}: finds a rate by itself; choose another")
    control = Control()
    found = Found(sweep, control)
    job = housed(_short(job, sweep), output, host.folders)
    with tempfile.TemporaryDirectory(prefix="lora-train-rates-") as folder:
        parts = job, _silent(output, pathlib.Path(folder)), _fresh(place)
        try:
            run(*parts, host, watchers=[found, *watchers], control=control)
        except Ruined:
            if len(found.points) <= FIRST:
                raise
    output.output_dir.mkdir(parents=True, exist_ok=True)
    file = output.output_dir / f"{output.output_name}-find-lr.json"
    with whole(file) as part:
        part.write_text(json.dumps(found.written(), indent=1), encoding="utf-8")
    curve(found).save(file.with_suffix(".png"))
    return found, file


def _short(job: Job, sweep: Sweep) -> Job:
    """The job with one rate for all that trains, which a class of torch's raises."""
    lr = dataclasses.replace(
        job.lr, learning_rate=sweep.low, unet_lr=None, text_encoder_lr=None, text_encoder_lr2=None,
        lr_warmup_steps=0.0, lr_scheduler_type="ExponentialLR",
        lr_scheduler_args=(f"gamma={sweep.factor!r}",))  # fmt: skip
    training = dataclasses.replace(
        job.training, max_train_steps=sweep.steps, max_train_epochs=None, initial_step=None,
        initial_epoch=None)  # fmt: skip
    return dataclasses.replace(job, lr=lr, training=training)


def _silent(output: Output, folder: pathlib.Path) -> Output:
    """Nothing but the result, into a folder that goes."""
    return Output(output_dir=folder, output_name=output.output_name, save_state_every_n_minutes=None)


def _fresh(place: Place) -> Place:
    kept = True if place.cache_latents_to_disk else place.cache_latents
    return dataclasses.replace(
        place, resume=None, cache_latents=kept, cache_latents_to_disk=False,
        cache_text_encoder_outputs_to_disk=False)  # fmt: skip


WIDE, HIGH, EDGE = 640, 400, 40


def curve(found: Found) -> Image.Image:
    """Losses and their mean over the rate, which is drawn by its powers of ten."""
    image = Image.new("RGB", (WIDE, HIGH), "white")
    draw, points = ImageDraw.Draw(image), found.points
    left, right = math.log10(found.sweep.low), math.log10(found.sweep.high)
    top = max((mean for _, _, mean in points), default=1.0) * 1.2

    def at(rate: float, loss: float) -> tuple[float, float]:
        x = EDGE + (WIDE - 2 * EDGE) * (math.log10(rate) - left) / (right - left)
        return x, HIGH - EDGE - (HIGH - 2 * EDGE) * min(1.0, loss / top)

    for power in range(math.ceil(left), math.floor(right) + 1):
        x, _ = at(10.0**power, 0)
        draw.line([(x, EDGE), (x, HIGH - EDGE)], fill="#dddddd")
        draw.text((x - 12, HIGH - EDGE + 6), f"1e{power}", fill="black")
    draw.text((EDGE, EDGE // 2), f"loss 0 to {top:.3g}", fill="black")
    if (rate := found.suggested()) is not None and rate >= found.sweep.low:
        x, _ = at(rate, 0)
        draw.line([(x, EDGE), (x, HIGH - EDGE)], fill="#cc4400", width=2)
        draw.text((x + 4, EDGE), f"{rate:.2g}", fill="#cc4400")
    if len(points) > 1:
        draw.line([at(rate, loss) for rate, loss, _ in points], fill="#b0c4de")
        draw.line([at(rate, mean) for rate, _, mean in points], fill="#1f4e9e", width=2)
    return image
