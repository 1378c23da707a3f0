"""One run of an objective of prompts: what the model says of them is what the adapter learns."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from lora_train.host import Cond
from lora_train.knobs import knob
from lora_train.losses import averaged
from lora_train.objectives.objective import Objective, Pass
from lora_train.objectives.timed import Timed
from lora_train.objectives.weighed import Weighed
from lora_train.transfer import sent

if TYPE_CHECKING:
    from lora_train.adapters.network import Network
    from lora_train.data.batches import Batch
    from lora_train.data.buckets import Resolution
    from lora_train.host import Lent

ALL = 1000  # timesteps of a schedule
LARGER = 3.0  # times that a picture's own size is at most what is shown of it, with dynamic_crops


@dataclasses.dataclass(frozen=True)
class Asked(Timed, Weighed, Objective):
    """How the model is asked for what is to be learned."""

    pictures: ClassVar[bool] = False
    precise: ClassVar[bool] = True

    max_denoising_steps: int = knob(
        40, "Steps of a whole picture. It is drawn with what is learned so far up to one of them by chance, "
        "and that is learned from.", group="words", low=2, high=1000)  # fmt: skip
    denoise_guidance_scale: float = knob(
        3.0, "Guidance towards the target while it is drawn.", group="words", low=0, high=30,
        aka="leco_denoise_guidance_scale")  # fmt: skip
    instant: bool = knob(
        False, "Draw nothing: learn from noise alone, at any step. Many times faster, and coarser.",
        group="words")  # fmt: skip
    anchors: str | None = knob(
        None, "Prompts that shall stay as they are, with | between them; one for each sample by chance.",
        group="words")  # fmt: skip
    anchor_strength: float = knob(1.0, "Weight of the anchors in the loss.", group="words", low=0, high=100)

    def check(self) -> Iterable[str]:
        yield from Timed.check(self)
        yield from Weighed.check(self)
        if not self.instant and self.min_timestep >= (top := self.top(1000)):
            yield (
                f"min_timestep = {self.min_timestep}: expected less than {top}, where the first of "
                f"{self.max_denoising_steps} steps ends; or set instant"
            )

    @property
    def window(self) -> tuple[int, int]:
        return self.min_timestep, self.max_timestep

    def record(self) -> dict[str, object]:
        return self.costs()

    def top(self, steps: int) -> int:
        """Before which of so many timesteps something is drawn: at least one step towards a picture is made,
        unless there are none."""
        most = self.max_denoising_steps
        return steps if self.instant else (most - 1) * (steps // most)

    def refusals(self, prediction: str, last_is_noise: bool) -> list[str]:
        said = super().refusals(prediction, last_is_noise)
        if prediction == "epsilon" and last_is_noise and self.top(ALL) == ALL - 1 and not self.instant:
            said.append(
                f"max_denoising_steps = {self.max_denoising_steps}: the first step would begin where no "
                "signal is left, and from predicted noise nothing follows there; expected less"
            )
        return said

    def apart(self) -> list[str]:
        """The anchors."""
        return [text.strip() for text in (self.anchors or "").split("|")] if self.anchors else []


@dataclasses.dataclass(frozen=True)
class Line:
    """A prompt, and what its prediction is to become: neutral + scale (positive - unconditional)."""

    name: str
    target: str
    positive: str
    unconditional: str
    neutral: str
    scale: float
    strength: float  # of the adapter while it is learned
    weight: float
    even: bool  # whether the goal gets the mean and the spread of neutral
    resolution: Resolution | None
    batch_size: int | None
    dynamic_resolution: bool
    dynamic_crops: bool

    @property
    def texts(self) -> tuple[str, ...]:
        return self.target, self.positive, self.unconditional, self.neutral


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What is random of samples."""

    noise: Tensor  # [B, C, h, w]
    steps: Tensor  # [B] long: done of max_denoising_steps; with `instant` the timestep
    anchors: list[int]
    sizes: Tensor  # [B, 6]


class Worded(Pass):
    """Its batches are of one line each.

    Args:
        conds: of every text, as the model without adapters reads it.
        steps: of the model's schedule.
    """

    def __init__(
        self,
        settings: Asked,
        lines: Sequence[Line],
        network: Network,
        conds: Mapping[str, Cond],
        steps: int = 1000,
    ):
        self.settings, self.network, self.conds = settings, network, dict(conds)
        self.shares = settings.shares(settings.top(steps))
        self.lines = {line.name: line for line in lines}

    @contextlib.contextmanager
    def during(self, batch: Batch) -> Iterator[None]:
        """At the line's strength."""
        before, self.network.strength = self.network.strength, self.line(batch).strength
        try:
            yield
        finally:
            self.network.strength = before

    def line(self, batch: Batch) -> Line:
        return self.lines[batch.names[0]]

    def losses(self, lent: Lent, batch: Batch, rngs: Sequence[torch.Generator]) -> Tensor:
        """See `Pass`; the network has to be at the line's strength, see `during`."""
        drawn = self.drawn(lent, batch, rngs)
        cond = lent.encode(batch.captions) if batch.conds is None else batch.conds
        cond = cond.of(sent(drawn.sizes, lent.device))
        return self.losses_at(lent, self.line(batch), drawn, cond, live=batch.conds is None)

    def timesteps(self, lent: Lent, batch: Batch, rngs: Sequence[torch.Generator]) -> list[int]:
        return self.at(lent, self.drawn(lent, batch, rngs).steps).tolist()

    def drawn(self, lent: Lent, batch: Batch, rngs: Sequence[torch.Generator]) -> Drawn:
        """Of each sample step and noise, then its anchor, then its crop."""
        settings, apart, shape = self.settings, self.settings.apart(), batch.latents.shape[1:]
        top = settings.top(len(lent.schedule))
        height, width = 8 * shape[1], 8 * shape[2]
        steps, noise, anchors, sizes = [], [], [], []
        for rng in rngs:
            steps.append(settings.step(top, self.shares, rng))
            noise.append(torch.randn(shape, generator=rng))
            if apart:
                anchors.append(int(torch.randint(len(apart), (), generator=rng)))
            crops = self.line(batch).dynamic_crops
            sizes.append(_crop(height, width, rng) if crops else (height, width, 0, 0, height, width))
        found = torch.stack(steps)
        if settings.fixed_timesteps_in_batch and batch.lots is not None:
            found = settings.steps_at(top, self.shares, batch.lots)
        if not settings.instant:
            most = settings.max_denoising_steps
            found = most - 1 - found // (len(lent.schedule) // most)
        return Drawn(torch.stack(noise), found, anchors, torch.tensor(sizes).float())

    def at(self, lent: Lent, steps: Tensor) -> Tensor:
        """The timesteps [B] after so many steps; between them is the same distance, and the last is 0."""
        if self.settings.instant:
            return steps
        most = self.settings.max_denoising_steps
        return (most - 1 - steps) * (len(lent.schedule) // most)

    def losses_at(self, lent: Lent, line: Line, drawn: Drawn, cond: Cond, *, live: bool = False) -> Tensor:
        """`losses` with everything random given.

        Args:
            cond: of the target, [B].
            live: the text encoder learns, so that what it makes of a text is asked anew.
        """
        x_t = sent(drawn.noise, lent.device)
        if not self.settings.instant:
            x_t = self.partial(lent, line, drawn, cond, live)
        t = sent(self.at(lent, drawn.steps), lent.device)
        apart = self.settings.apart()
        anchors = [apart[i] for i in drawn.anchors]
        goal, stay = self.goals(lent, line, x_t, t, cond.sizes, anchors)
        guess = lent.denoise(x_t, t, cond)
        losses = line.weight * self.counted(lent, guess.float() - goal, t)
        if not anchors:
            return losses
        texts = lent.encode(anchors) if live else self.stacked(anchors)
        guess = lent.denoise(x_t, t, dataclasses.replace(texts, sizes=cond.sizes))
        return losses + self.settings.anchor_strength * self.counted(lent, guess.float() - stay, t)

    def counted(self, lent: Lent, error: Tensor, t: Tensor) -> Tensor:
        """[B]: what an error in a prediction costs."""
        losses = averaged(self.settings.elements(error, lent.schedule, t))
        weights = self.settings.weights(lent.schedule, t)
        return losses if weights is None else losses * sent(weights, losses.device).to(losses)

    @torch.no_grad()
    def partial(self, lent: Lent, line: Line, drawn: Drawn, cond: Cond, live: bool) -> Tensor:
        """The target's pictures as the adapter draws them now, as far as each is to be: x_t, [B, C, h, w]."""
        x_t, guidance = sent(drawn.noise, lent.device), self.settings.denoise_guidance_scale
        empty = lent.encode([line.unconditional]) if live else self.conds[line.unconditional]
        training = self.network.training
        self.network.eval()
        try:
            for done in range(int(drawn.steps.max())):
                which = (drawn.steps > done).nonzero()[:, 0]
                here = sent(which, lent.device)
                now, then = (self.at(lent, torch.full_like(which, i)) for i in (done, done + 1))
                of, steps = _taken(cond, here), sent(now, lent.device)
                guess = lent.denoise(x_t[here], steps, of).float()
                if guidance != 1:
                    none = dataclasses.replace(_times(empty, len(which)), sizes=of.sizes)
                    without = lent.denoise(x_t[here], steps, none).float()
                    guess = without + guidance * (guess - without)
                x_t = x_t.index_copy(0, here, lent.schedule.step(x_t[here], guess, now, then))
        finally:
            self.network.train(training)
        torch.clear_autocast_cache()  # which keeps adapters' weights in half precision, without a gradient
        return x_t

    @torch.no_grad()
    def goals(  # noqa: PLR0913 (what a prediction depends on)
        self, lent: Lent, line: Line, x_t: Tensor, t: Tensor, sizes: Tensor | None, anchors: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        """What is to be predicted of the target, and of the anchors: float32, of the model as it was.

        Source: Gandikota et al. 2023, arXiv:2303.07345, eq. 7, with a neutral prompt as LECO has it.
        """
        with self.network.off():
            seen = {
                text: lent.denoise(
                    x_t, t, dataclasses.replace(_times(self.conds[text], len(x_t)), sizes=sizes)
                ).float()
                for text in dict.fromkeys((line.neutral, line.positive, line.unconditional))
            }
            stay = None
            if anchors:
                cond = dataclasses.replace(self.stacked(anchors), sizes=sizes)
                stay = lent.denoise(x_t, t, cond).float()
        goal = seen[line.neutral] + line.scale * (seen[line.positive] - seen[line.unconditional])
        return like(goal, seen[line.neutral]) if line.even else goal, stay

    def stacked(self, texts: Sequence[str]) -> Cond:
        return Cond.stack([self.conds[text] for text in texts])


def like(values: Tensor, model: Tensor) -> Tensor:
    """The same with the model's mean and spread, each sample for itself; [B, ...]."""
    over = tuple(range(1, values.ndim))
    mean, spread = values.mean(over, keepdim=True), values.std(over, keepdim=True)
    return (values - mean) / (spread + 1e-6) * model.std(over, keepdim=True) + model.mean(over, keepdim=True)


def _times(cond: Cond, count: int) -> Cond:
    """One text's, for so many samples."""
    return Cond.stack([cond] * count)


def _taken(cond: Cond, which: Tensor) -> Cond:
    parts = (cond.context, cond.vector, cond.sizes)
    return Cond(*(None if part is None else part[which] for part in parts))


def _crop(height: int, width: int, rng: torch.Generator) -> tuple[int, ...]:
    """A size of one to three times what is shown, and where in it that is; as LECO draws it."""
    scale = 1 + (LARGER - 1) * float(torch.rand((), generator=rng))
    whole = int(height * scale), int(width * scale)
    top, left = (
        int(torch.randint(of - shown + 1, (), generator=rng))
        for of, shown in zip(whole, (height, width), strict=True)
    )
    return (*whole, top, left, height, width)
