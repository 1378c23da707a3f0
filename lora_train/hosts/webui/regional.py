"""LoRAs by region and by AND prompt, in the WebUI's own pictures.

The UNet runs once for each set of LoRAs that acts somewhere, with those alone worked into its weights, and
what it finds is put together by region. So a region is what its LoRAs make of it, for every family and every
kind of layer; a pass for each set is what that costs. Prompts are encoded once for each set as well.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lora_train.emphasis import Named
from lora_train.hosts.webui.blockwise import Weighed
from lora_train.hosts.webui.whose import Said, Wish, Worn

NUMBERS = ("te_multiplier", "unet_multiplier")  # what the WebUI keeps of a loaded network
CONDS = ("c", "uc", "hr_c", "hr_uc")
CACHES = ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc")


class Passes:
    """One sampling of a generation `p`: hires fix is a second."""

    def __init__(self, p: Any, sampler: Any, wish: Wish, said: Said):
        self.p, self.sampler, self.wish, self.said = p, sampler, wish, said
        self.networks = [net for net in dict.fromkeys(_loaded()) if net.mentioned_name in said.names]
        self.conds: dict[Worn, tuple] = {}  # prompt and negative prompt, encoded
        self.told: dict[Worn, tuple] = {}  # the same in this step: rows of one, rows of the other
        self.rows: list[int | None] = []  # of this step: which AND prompt each is, None: the negative one
        self.done = 0  # of them, in this step
        self.last: Worn | None = None  # what the UNet's weights have now

    def sampled(self, plain: Callable, *args: Any) -> Any:
        """In the place of the sampler's `launch_sampling`."""
        with self._weighed():
            if any(_encodes(net) for net in self.networks):
                for worn in self._sets():
                    if worn != frozenset(self.said.tags) or len(worn) > len(self.said.names):
                        self.conds[worn] = self._encoded(worn)
            with self._listening():
                return plain(*args)

    def _sets(self) -> set[Worn]:
        rows = [None, *range(self.said.prompts)]
        regions = [0] if self.wish.split is None else self.wish.split.regions
        return {self.wish.acting(self.said, region, row) for region in regions for row in rows}

    # ── strengths ───────────────────────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def _weighed(self) -> Iterator[None]:
        """Every tag's strength for itself; as they were behind it."""
        with _kept(self.networks, NUMBERS):
            for net in self.networks:
                tags = [tag for tag in self.said.tags if tag.name == net.mentioned_name]
                for name, part in zip(NUMBERS, ("te", "unet"), strict=True):
                    there = getattr(net, name)
                    if isinstance(there, Weighed):
                        continue
                    each = [there] if len(tags) == 1 else [vars(tag)[part] for tag in tags]
                    shares = [(strength, None, Named(net.mentioned_name)) for strength in each]
                    setattr(net, name, Weighed(shares, [True] * len(shares)))
            yield

    @contextlib.contextmanager
    def _wearing(self, worn: Worn) -> Iterator[None]:
        """Those tags alone, as far as they act in this step."""
        chosen = {(tag.name, tag.nth) for tag in worn}
        with _kept(self.networks, NUMBERS):
            for net in self.networks:
                for name in NUMBERS:
                    whole = getattr(net, name)
                    acts = [on and (net.mentioned_name, i) in chosen for i, on in enumerate(whole.acts)]
                    setattr(net, name, Weighed(whole.shares, acts))
            yield

    def _encoded(self, worn: Worn) -> tuple:
        """As `setup_conds` does it; its own stay, and so do its caches."""
        from modules import processing

        p = self.p
        names = [name for name in (*CONDS, *CACHES) if hasattr(p, name)]
        with self._wearing(worn), _kept([p], names):
            for name in names:
                setattr(p, name, [None, None] if name in CACHES else None)
            if p.is_hr_pass:
                p.calculate_hr_conds()
            else:
                processing.StableDiffusionProcessing.setup_conds(p)
            return p.get_conds()

    # ── steps ───────────────────────────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """In the UNet's place, and told of steps. An attribute rather than a hook: what is there, maybe
        another extension's, is to be called several times, or with fewer rows."""
        from modules import script_callbacks

        unet = self.p.sd_model.model.diffusion_model
        others = vars(unet).get("forward")
        plain = unet.forward
        script_callbacks.on_cfg_denoiser(self.stepped)
        unet.forward = lambda x, timesteps=None, context=None, *rest, **named: self.forward(
            _Call(plain, x, (timesteps, context, *rest), named, whole=others is not None)
        )
        try:
            yield
        finally:
            script_callbacks.remove_callbacks_for_function(self.stepped)
            if others is None:
                del unet.forward
            else:
                unet.forward = others

    def stepped(self, params: Any) -> None:
        """Which rows the denoiser is about to ask for: those of prompts, picture by picture, then negative
        ones. It asks for all at once, or for one part after the other."""
        from modules import prompt_parser

        counts = [len(prompts) for prompts in self.sampler.sampler_extra_args["cond"].batch]
        self.rows = [i for count in counts for i in range(count)] + [None] * len(counts)
        self.done, self.told = 0, {}
        denoiser = params.denoiser
        for worn, (cond, uncond) in self.conds.items():
            _, given = prompt_parser.reconstruct_multicond_batch(cond, denoiser.step)
            self.told[worn] = _padded(
                denoiser, given, prompt_parser.reconstruct_cond_batch(uncond, denoiser.step)
            )

    def forward(self, call: _Call) -> Tensor:
        """In the place of the UNet's."""
        first, self.done = self.done, self.done + len(call.x)
        rows = self.rows[first : self.done]
        if len(rows) != len(call.x):  # asked by somebody else
            return call.plain(call.x, *call.rest, **call.named)
        found = None
        made = self._shares(rows, call.x.shape[-2:])
        for worn in sorted(made, key=lambda worn: worn != self.last):
            self.last, told, shares = worn, self.told.get(worn), made[worn]
            at = [*shares]
            with self._wearing(worn):
                out = call.of(at, None if told is None else [_row(told, first + i) for i in at])
            weights = torch.stack([*shares.values()])[:, None].to(out)
            if found is None:
                found = out.new_zeros(len(rows), *out.shape[1:])
            found[at] += out * weights
        return found

    def _shares(self, rows: Sequence[int | None], size: Sequence[int]) -> dict[Worn, dict[int, Tensor]]:
        """How much of each row each set of LoRAs makes: [height, width]."""
        split = self.wish.split
        parts = torch.ones(1, *size) if split is None else split.parts(*size)
        found: dict[Worn, dict[int, Tensor]] = {}
        for i, row in enumerate(rows):
            for region, part in enumerate(parts):
                if part.any():
                    of = found.setdefault(self.wish.acting(self.said, region, row), {})
                    of[i] = of[i] + part if i in of else part
        return found


class _Call:
    """Of a UNet.

    Args:
        rest: its arguments behind x: times and conds are the first.
        whole: whether `plain` has to have all rows, for others have their part in it.
    """

    def __init__(self, plain: Callable, x: Tensor, rest: tuple, named: dict, *, whole: bool):
        self.plain, self.x, self.rest, self.named, self.whole = plain, x, rest, named, whole

    def of(self, at: Sequence[int], told: Sequence[Any] | None) -> Tensor:
        """Some rows of what it answers, with other conds if there are."""
        rest, named = [*self.rest], dict(self.named)
        if told is not None:
            rest[1], named = self._told(at, told)
        if self.whole or len(at) == len(self.x):
            found = self.plain(self.x, *rest, **named)
            return found if len(at) == len(self.x) else found[[*at]]
        some = [self._taken(value, at) for value in rest]
        return self.plain(self.x[[*at]], *some, **{k: self._taken(v, at) for k, v in named.items()})

    def _told(self, at: Sequence[int], told: Sequence[Any]) -> tuple[Tensor, dict]:
        """The conds of all rows, and what else is named: SDXL's have a vector beside."""
        named, context = dict(self.named), self.rest[1].clone()
        for i, cond in zip(at, told, strict=True):
            context[i] = (cond["crossattn"] if isinstance(cond, dict) else cond).to(context)
        if isinstance(told[0], dict) and "y" in named:
            named["y"] = named["y"].clone()
            for i, cond in zip(at, told, strict=True):
                named["y"][i] = cond["vector"].to(named["y"])
        return context, named

    def _taken(self, value: Any, at: Sequence[int]) -> Any:
        rowwise = isinstance(value, Tensor) and value.dim() > 0 and len(value) == len(self.x)
        return value[[*at]] if rowwise else value


def _loaded() -> list:
    networks = sys.modules.get("networks")
    return [] if networks is None else networks.loaded_networks


def _encodes(net: Any) -> bool:
    """Whether it has anything for a text encoder."""
    return float(net.te_multiplier) != 0 and any("transformer" in key[:20] for key in net.modules)


@contextlib.contextmanager
def _kept(objects: Sequence[Any], names: Sequence[str]) -> Iterator[None]:
    """Those attributes are behind it what they were."""
    there = [(one, name, getattr(one, name), name in vars(one)) for one in objects for name in names]
    try:
        yield
    finally:
        for one, name, value, own in there:
            if own:
                setattr(one, name, value)
            else:
                vars(one).pop(name, None)


def _padded(denoiser: Any, cond: Any, uncond: Any) -> tuple:
    """To one length, where the denoiser does so."""
    from modules.shared import opts

    if cond.shape[1] != uncond.shape[1]:
        if opts.pad_cond_uncond_v0:
            return denoiser.pad_cond_uncond_v0(cond, uncond)
        if opts.pad_cond_uncond:
            return denoiser.pad_cond_uncond(cond, uncond)
    return cond, uncond


def _row(told: tuple, row: int) -> Any:
    cond, uncond = told
    given, row = (cond, row) if row < len(_first(cond)) else (uncond, row - len(_first(cond)))
    return {name: part[row] for name, part in given.items()} if isinstance(given, dict) else given[row]


def _first(cond: Any) -> Tensor:
    return cond["crossattn"] if isinstance(cond, dict) else cond


def reason(p: Any) -> str | None:
    """Why it cannot be done in a generation."""
    if p.refiner_checkpoint not in (None, "", "None", "none"):
        return "expected no refiner: it takes the model away in the middle of a picture"
    if vars(p.sd_model).get("is_sd3"):
        return "expected SD 1.x, SD 2.x or SDXL"
    if p.sd_model.cond_stage_key == "edit":
        return "expected another checkpoint: this one's pictures have two sorts of negative prompts"
    return None
