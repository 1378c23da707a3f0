"""What every optimizer declares: its library's class, and settings that several share."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch

from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.train.library import loaded, missing, refused, told
from lora_train.values import numeral, shown

ONE = 0.1  # rates below it are those of other optimizers, where 1 is usual; sd-scripts warns from here too


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """A class of a library. What is empty here is as USUAL has it, else as the library has it."""

    optimizer_args: tuple[str, ...] = knob(
        (), "More arguments of the optimizer's class, each name=value.", group="optimizer"
    )

    CLASS: ClassVar[str] = ""  # module.Class
    PIP: ClassVar[str | None] = None  # where the package to install is called otherwise than its module
    RATE: ClassVar[float | None] = 1e-4  # usual for LoRA; None: nothing is usual
    USUAL: ClassVar[
        Mapping[str, object]
    ] = {}  # of its settings, and of the arguments that make it what it is
    BETAS: ClassVar[int | None] = 2
    ALONE: ClassVar[bool] = False  # its library takes one rate for all parameters
    FREE: ClassVar[bool] = False  # averages its weights in place of a schedule
    ADAPTS: ClassVar[bool] = False  # finds the rate by itself; the one that is given multiplies it

    @classmethod
    def kind(cls) -> str:
        return cls.__name__.lower()

    @property
    def chooses(self) -> bool:
        """Whether it has rates of its own, and takes none."""
        return False

    def check(self) -> Iterable[str]:
        own = {f.name for f in dataclasses.fields(self)}
        try:
            for name in told(self.optimizer_args):
                if name in own:
                    yield f"optimizer_args = {name}: it is a setting of its own; set optimizer.{name}"
                elif name in ("lr", "params"):
                    yield f"optimizer_args = {name}: rates are set in lr.learning_rate"
        except Mistake as e:
            yield f"optimizer_args: {e}"
        betas = vars(self).get("betas")
        if betas is not None and self.BETAS is not None and len(betas) != self.BETAS:
            words = {2: "two numbers, such as 0.9,0.999", 3: "three numbers, such as 0.9,0.999,0.9999"}
            yield f"betas = {shown(betas)}: expected {words[self.BETAS]}"

    def filled(self) -> Optimizer:
        """With what is used where a setting is empty."""
        own = {name: value for name, value in self.USUAL.items() if name in vars(self)}
        empty = {name: value for name, value in own.items() if vars(self)[name] is None}
        return dataclasses.replace(self, **empty) if empty else self

    def arguments(self) -> dict[str, object]:
        """Of the class, without its rate."""
        own = {name: value for name, value in vars(self.filled()).items() if name not in OURS}
        given = {name: value for name, value in own.items() if value is not None}
        fixed = {name: value for name, value in self.USUAL.items() if name not in own}
        return {**fixed, **given, **told(self.optimizer_args)}

    def path(self) -> str:
        return self.CLASS

    def loaded(self) -> type[torch.optim.Optimizer]:
        """Raises Mistake: it is not installed, or no optimizer."""
        return loaded(self.path(), torch.optim.Optimizer, "an optimizer of torch's kind", self.PIP)

    def unready(self) -> list[str]:
        """Why it cannot be made, before anything is loaded for a run; what is asked is cheap."""
        lead = f"optimizer.kind = {self.kind()}"
        if missing(self.path()):
            pip = self.PIP or self.path().partition(".")[0]
            return [f"{lead}: needs the package {pip}; pip install {pip}"]
        if not self.optimizer_args and self.CLASS:
            return []
        try:
            lost = refused(self.loaded(), self.arguments())
            if not lost:
                self.make([{"params": [torch.nn.Parameter(torch.zeros(2, 2))], "lr": 1.0}])
        except Mistake as e:
            return [f"{lead}: {line}" for line in str(e).splitlines()]
        return [f"optimizer.optimizer_args = {line}" for line in lost]

    def on(self, device: str) -> Optimizer:
        """The one that is used on a device: itself, or one whose steps are the same.

        Args:
            device: "cuda", "cpu", …; "auto": the first CUDA device if there is one.
        """
        return self

    def instead(self, device: str) -> str:
        """What is said of it where `on` gives another; "" where it is itself."""
        return ""

    def name(self) -> str:
        """module.Class, and in brackets the arguments that are not the class's own, as sd-scripts has it."""
        cls = self.loaded()
        usual = {name: p.default for name, p in _parameters(cls).items()}
        own = {name: value for name, value in self.arguments().items() if usual.get(name, self) != value}
        given = ",".join(f"{name}={_text(value)}" for name, value in own.items())
        return f"{cls.__module__}.{cls.__name__}" + (f"({given})" if given else "")

    def rate(self, groups: list[dict]) -> float | None:
        """What the class is given as its rate; groups have their own beside it."""
        return groups[0].get("lr", self.RATE)

    def make(self, groups: list[dict]) -> torch.optim.Optimizer:
        """Raises Mistake: the library will not have it so."""
        cls, arguments = self.loaded(), self.arguments()
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # some talk when they are made
                return cls(groups, lr=self.rate(groups), **arguments)
        except (TypeError, ValueError, AssertionError, RuntimeError) as e:
            why = "".join(str(e).splitlines()[:1]) or type(e).__name__
            said = ", ".join(f"{name}={_text(value)}" for name, value in arguments.items())
            raise Mistake(f"{cls.__name__}({said}): {why}") from e

    def refusals(self, rates: Mapping[str, float]) -> list[str]:
        """What is wrong with rates, by the name of what they are of."""
        if not self.ALONE or len(set(rates.values())) < len("ab"):
            return []
        said = ", ".join(f"{name} {numeral(rate)}" for name, rate in rates.items())
        return [f"optimizer.kind = {self.kind()}: takes one learning rate for all parameters; got {said}"]


OURS = ("optimizer_args", "optimizer_class")  # settings that are no arguments of the class


def _parameters(cls: type) -> Mapping:
    import inspect

    return inspect.signature(cls.__init__).parameters


def _text(value: object) -> str:
    return f"({', '.join(map(str, value))})" if isinstance(value, tuple | list) else str(value)


def usually(help: str, **limits: float) -> object:
    return knob(None, f"{help} Empty: what is usual with the optimizer.", group="optimizer", **limits)


@dataclasses.dataclass(frozen=True)
class Decaying(Optimizer):
    """Those that shrink weights."""

    weight_decay: float | None = usually("Share of the rate by which weights shrink.", low=0, high=10)


@dataclasses.dataclass(frozen=True)
class Moments(Decaying):
    """Those with running means."""

    betas: tuple[float, ...] | None = usually("Decay of the running means.", low=0, high=0.9999999)


@dataclasses.dataclass(frozen=True)
class Dividing(Moments):
    """Those that divide by the root of a running mean."""

    eps: float | None = usually("Added to the denominator.", low=0, high=1)


@dataclasses.dataclass(frozen=True)
class Rolling(Decaying):
    """Those with momentum."""

    momentum: float | None = usually("Share of the last step that is made again.", low=0, high=0.9999999)
