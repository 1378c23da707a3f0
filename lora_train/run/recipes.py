"""Recipes: settings chosen by goal, model, memory and number of pictures, each with its reason."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from lora_train.errors import Mistake
from lora_train.values import either, plain, shown

Values = dict[str, object]

OF_PICTURES = ("data.train_data_dir", "data.reg_data_dir", "data.in_json", "data.trigger_word")
GOALS: list[dict[str, object]] = [  # aside: what a form puts by while the goal is chosen, for it has no place
    {"id": "character", "title": "Character", "aside": (),
     "text": "One person, animal or figure, in any clothes, place and style."},
    {"id": "style", "title": "Style", "aside": (), "text": "How pictures look, whatever is on them."},
    {"id": "concept", "title": "Object or concept", "aside": (),
     "text": "A thing, a dress, a pose, a place."},
    {"id": "slider", "title": "Slider", "aside": OF_PICTURES,
     "text": "More or less of a quality, by the strength. Learned from words, without pictures."},
    {"id": "edit", "title": "Edit concept", "aside": OF_PICTURES,
     "text": "Take a concept out of the model, or put another in its place. Learned from words, without "
             "pictures."},
]  # fmt: skip
FAMILIES = ("sd1", "sd2", "sdxl")
USUAL = 8192  # megabytes, where they are not known


@dataclasses.dataclass(frozen=True)
class Goal:
    """What a goal needs."""

    dim: int
    each: int  # times that a picture is seen
    least: int  # samples in all
    most: int
    flip: bool
    why_dim: str
    why_flip: str
    words: str = ""  # the objective that learns from prompts, without pictures


NEEDS = {
    "character": Goal(
        16, 100, 800, 2000, False, "One face and figure fit into rank 16, and the file stays small",
        "A parting, a scar or a badge has its side"),
    "style": Goal(
        32, 60, 1200, 4000, True, "Brush, light and palette are spread over more layers than one figure is",
        "A style has no left and right, and mirrored pictures are twice as many"),
    "concept": Goal(
        8, 100, 600, 1500, True, "One thing needs little room, and a small rank cannot learn backgrounds too",
        "Most things may stand the other way round; switch it off for letters and logos"),
    "slider": Goal(
        4, 0, 500, 500, False, "One quality is one direction, and a small rank leaves all else alone", "",
        "slider"),
    "edit": Goal(
        4, 0, 500, 500, False, "Taking one thing out needs little room, and a small rank leaves all else "
        "alone", "", "erase"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Pace:
    """A built-in preset, as what it does to the balanced one."""

    text: str
    samples: float = 1.0
    dim: float = 1.0
    saves: int = 5
    draws: int = 10
    dropout: float = 0.0  # of captions


BUILTIN = {
    "Fast": Pace("Half the steps and half the rank: to see whether pictures and captions are right.",
                 samples=0.5, dim=0.5, saves=2, draws=5),
    "Balanced": Pace("What works for most prompts, and sets of 10 to 50 pictures."),
    "Thorough": Pace("Twice the steps and the rank, more files to choose from.", samples=2, dim=2, saves=8,
                     draws=16, dropout=0.05),
}  # fmt: skip
BALANCED = "Balanced"


def preset(  # noqa: PLR0913 (what the choice depends on)
    goal: str = "character",
    family: str | None = "sd1",
    megabytes: float | None = None,
    pictures: int | None = None,
    *,
    name: str = BALANCED,
    dtype: str | None = None,
) -> Values:
    """{path: value} of a built-in preset.

    Args:
        family: of the model; None: not known, as sd1.
        megabytes: of the card; None: there is none.
        pictures: None: not known.
        dtype: "fp16", "bf16" or "fp32": what the host holds the model in; None: not known.

    Raises:
        Mistake: a goal or family that there is not, or not yet.
    """
    rows = _Chosen.of(goal, family, megabytes, pictures, name, dtype).rows()
    return {path: plain(value) for path, value, _ in rows}


def reasons(  # noqa: PLR0913 (as `preset`)
    goal: str = "character",
    family: str | None = "sd1",
    megabytes: float | None = None,
    pictures: int | None = None,
    *,
    name: str = BALANCED,
    dtype: str | None = None,
) -> dict[str, str]:
    """{path: why it has this value}, of the same."""
    rows = _Chosen.of(goal, family, megabytes, pictures, name, dtype).rows()
    return {path: why for path, _, why in rows}


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """One combination, and what follows from it."""

    goal: Goal
    family: str
    card: float | None  # megabytes
    pictures: int | None
    pace: Pace
    dtype: str | None

    @classmethod
    def of(  # noqa: PLR0913 (as `preset`)
        cls,
        goal: str,
        family: str | None,
        megabytes: float | None,
        pictures: int | None,
        name: str,
        dtype: str | None,
    ) -> _Chosen:
        if goal not in NEEDS:
            raise Mistake(f"goal = {shown(goal)}: expected {either(NEEDS)}")
        family = family or "sd1"
        if family not in FAMILIES:
            raise Mistake(
                f"family = {shown(family)}: expected {either(FAMILIES)}; load a model of these, others are "
                "not trained yet"
            )
        return cls(NEEDS[goal], family, megabytes, pictures or None, BUILTIN[name], dtype)

    @property
    def memory(self) -> float:
        return self.card or USUAL

    @property
    def steps(self) -> int:
        """Rounded to tens, so that saves and samples fall on round numbers."""
        g = self.goal
        if g.words:
            return round(g.most * self.pace.samples)
        seen = 1600 if self.pictures is None else min(g.most, max(g.least, g.each * self.pictures))
        return max(20, 20 * round(seen * self.pace.samples / self.batch / 20))

    @property
    def batch(self) -> int:
        if self.goal.words:
            return 1
        roomy = {"sd1": 12_000, "sd2": 16_000, "sdxl": 30_000}[self.family]
        return 2 if self.card and self.card >= roomy else 1

    def rows(self) -> Iterator[tuple[str, object, str]]:
        """(path, value, reason) of each setting that the preset has an opinion on."""
        if self.goal.words:
            yield "objective.kind", self.goal.words, "Learns from what the model says of your prompts."
        yield from self._network()
        yield from self._rates()
        yield from self._size()
        if not self.goal.words:
            yield from self._data()
        yield from self._time()
        yield from self._memory()

    def _network(self) -> Iterator[tuple[str, object, str]]:
        dim = max(4, int(self.goal.dim * self.pace.dim))
        yield "network.kind", "lora", "Every WebUI loads it, at any strength."
        yield "network.dim", dim, f"{self.goal.why_dim} (Hu et al. 2021, arXiv:2106.09685, 7.2)."
        yield (
            "network.alpha",
            dim / 2,
            "Half the rank: the update is scaled by alpha/rank, so rates mean the same at every rank.",
        )
        only = self.family == "sdxl" or bool(self.goal.words)
        why = "The text encoder learns the trigger word, which makes it hold with fewer steps."
        if self.goal.words:
            why = "Prompts have to mean what they meant, for what the model says of them is learned from."
        elif only:
            why = (
                "SDXL's two text encoders need memory and take harm easily; sd-scripts advises the UNet "
                "alone."
            )
        yield "network.train_unet_only", only, why

    def _rates(self) -> Iterator[tuple[str, object, str]]:
        yield "lr.kind", "cosine", "Ends at 0, so that the last file is not the luck of the last steps."
        yield "lr.learning_rate", 1e-4, "The rate that sd-scripts and kohya_ss begin with for LoRA."
        yield "lr.unet_lr", 1e-4, "As learning_rate."
        if self.family != "sdxl" and not self.goal.words:
            yield (
                "lr.text_encoder_lr",
                5e-5,
                "Half the UNet's: the text encoder overfits sooner, and then prompts are no longer followed.",
            )
        yield "lr.lr_warmup_steps", 0.05, "A twentieth of the run: AdamW's first steps are its roughest."
        yield "optimizer.kind", "adamw", "The one whose rates everybody's advice is for."
        if not self.goal.words:
            yield (
                "objective.min_snr_gamma",
                5.0,
                "Noise levels that are easy no longer drown the others (Hang et al. 2023, arXiv:2303.09556).",
            )

    def _size(self) -> Iterator[tuple[str, object, str]]:
        side, why = self._side()
        yield "data.resolution", str(side), why
        why = (
            "Two pictures at once fit, and a step is steadier."
            if self.batch > 1
            else "One picture at once needs the least memory and learns as well."
        )
        yield "data.batch_size", self.batch, why

    def _data(self) -> Iterator[tuple[str, object, str]]:
        side, _ = self._side()
        yield "data.enable_bucket", True, "Pictures keep their shape: nothing is cut to a square."
        yield "data.min_bucket_reso", 256, "As in sd-scripts: narrower pictures are rare."
        yield (
            "data.max_bucket_reso",
            side * 2,
            "Twice the resolution: longer pictures are rare, and shown smaller.",
        )
        yield "data.num_repeats", 1.0, "How long the run is, max_train_steps says; folders named 10_… count."
        yield "data.flip_aug", self.goal.flip, f"{self.goal.why_flip}."
        yield (
            "data.caption_dropout_rate",
            self.pace.dropout,
            (
                "One picture in twenty without its caption: what is common to all is learned as well."
                if self.pace.dropout
                else "Every caption is read each time."
            ),
        )

    def _side(self) -> tuple[int, str]:
        if self.family == "sd1":
            return 512, "The size that SD 1.x was made for."
        if self.family == "sd2":
            fits = self.memory >= 10_000
            return (
                (768, "The size that SD 2.x with v-prediction was made for.")
                if fits
                else (512, "768 does not fit into this card's memory with room to spare.")
            )
        fits = self.memory >= 8_000 and self.pace.samples >= 1
        return (
            (1024, "The size that SDXL was made for.")
            if fits
            else (768, "1024 takes nearly twice the time and memory; 768 still trains SDXL well.")
        )

    def _time(self) -> Iterator[tuple[str, object, str]]:
        steps, of = self.steps, self.pictures
        why = "The usual length in sd-scripts; it follows the number of pictures once the folder is known."
        if self.goal.words:
            why = "The usual length of LECO: one prompt is learned fast."
        elif of is not None:
            why = f"{of} pictures, each seen about {steps * self.batch / of:.0f} times."
        yield "training.max_train_steps", steps, why
        yield "training.max_train_epochs", None, "The length is given in steps."
        every = max(1, steps // self.pace.saves)
        yield (
            "output.save_every_n_steps",
            every,
            (f"{math.ceil(steps / every)} files to compare: the last one is not always the best."),
        )
        yield "output.save_state_every_n_minutes", 10.0, "After a power failure ten minutes are lost at most."
        draws = self.pace.draws if self.card else max(2, self.pace.draws // 3)
        yield (
            "output.sample_every_n_steps",
            max(1, steps // draws),
            (
                "Often enough to see when it is done."
                if self.card
                else "Seldom, for a picture takes its time without a graphics card."
            ),
        )
        yield "output.sample_at_first", True, "To see what the model does before."
        yield (
            "output.sample_base",
            True,
            "The same prompt and seed without the LoRA stand beside each sample.",
        )

    def _memory(self) -> Iterator[tuple[str, object, str]]:
        precision, why = self._precision()
        yield "training.mixed_precision", precision, why
        tight = {"sd1": 7_500, "sd2": 12_000, "sdxl": 20_000}[self.family]
        saves = self.memory < tight
        card = f"{self.memory / 1024:.0f} GB" if self.card else "unknown memory"
        yield (
            "place.gradient_checkpointing",
            saves,
            (
                f"Activations are computed again, a quarter slower, to fit into {card}."
                if saves
                else f"There is room for all activations in {card}, and without it steps are faster."
            ),
        )
        if self.goal.words:
            yield "output.save_precision", "fp16", "Half the size, and no difference that can be seen."
            return
        yield "place.cache_latents", True, "The autoencoder runs once for each picture, then leaves the card."
        yield "place.cache_latents_to_disk", True, "The next run over these pictures begins at once."
        if self.family == "sdxl":
            yield (
                "place.cache_text_encoder_outputs_to_disk",
                True,
                "Neither text encoder trains, so both run once for each caption, and leave the card.",
            )
        yield "output.save_precision", "fp16", "Half the size, and no difference that can be seen."

    def _precision(self) -> tuple[str, str]:
        if self.dtype == "bf16":
            return "bf16", "The model is held in bf16."
        if self.dtype == "fp32" or not self.card:
            return "no", "The model is held in full precision." if self.card else "A CPU is fastest at it."
        return "fp16", "Half the memory of full precision; adapters stay in float32 and the loss is scaled."
