"""`lbw=`, `start=`, `stop=` and `step=` in the WebUI's own prompts, with any LoRA that it loads.

All of it is in a strength: the WebUI's Lora extension keeps two numbers of a loaded network, and works it
into a layer's weights anew when they are others than the layer has. A `Weighed` is such a number, with
another value for each layer; so batches, hires fix and the next prompt put on and take off what they always
did, and nothing of ours has to be taken back.
"""

from __future__ import annotations

import functools
import logging
import pathlib
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

from lora_train.blocks import BlockWeights
from lora_train.emphasis import Named, named_of, placed, words_of
from lora_train.hosts.webui.folders import folders
from lora_train.hosts.webui.versions import unsupported
from lora_train.spelling import Book

log = logging.getLogger(__name__)

OTHER = "lora_block_weight.py"  # the script of sd-webui-lora-block-weight
OWN = ("lbw", "lbwe", "start", "stop", "step")  # of a tag's parts those that the WebUI does nothing with
MANY = 1000  # tags
CACHES = ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc")

Share = tuple[float, BlockWeights | None, Named]  # strength, of which blocks, and when


class Weighed(float):
    """A strength of a loaded network: for everybody else a number, for each of its layers its own.

    A network that is named twice is in the WebUI's list twice, at one strength; its shares are halved for it.
    """

    shares: tuple[Share, ...]
    acts: tuple[bool, ...]  # which of them, now

    def __new__(cls, shares: Sequence[Share], acts: Sequence[bool]) -> Weighed:
        mean = sum(share[0] for share, on in zip(shares, acts, strict=True) if on) / len(shares)
        made = super().__new__(cls, mean)
        made.shares, made.acts = tuple(shares), tuple(acts)
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Weighed) and (self.shares, self.acts) == (other.shares, other.acts)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((self.shares, self.acts))

    def of(self, key: str) -> float:
        """Of a layer, by the WebUI's name of it."""
        layer = ("te1", key) if "transformer" in key[:20] else ("unet", key.removeprefix("diffusion_model_"))
        parts = [
            strength * (1.0 if blocks is None else blocks.strength(*layer))
            for (strength, blocks, _), on in zip(self.shares, self.acts, strict=True)
            if on
        ]
        return sum(parts) / len(self.shares)

    def at(self, step: int) -> Weighed:
        """What it is in a step."""
        acts = tuple(named.acts(step) for *_, named in self.shares)
        return self if acts == self.acts else Weighed(self.shares, acts)


def other() -> bool:
    """Whether sd-webui-lora-block-weight is there, and on; then it does what the tags say."""
    from modules import scripts

    return any(pathlib.Path(found.path).name == OTHER for found in scripts.scripts_data)


def book() -> Book:
    """With a person's presets: those that lie beside the LoRAs or in our folder, and those of
    sd-webui-lora-block-weight, which may be off."""
    from modules import paths

    theirs = pathlib.Path(paths.data_path, "extensions", "sd-webui-lora-block-weight", "scripts")
    return Book.read([theirs, folders().loras, folders().desk])


@functools.cache
def _say(text: str) -> None:
    log.warning(text)  # what is less the WebUI shows only if asked to


def ready() -> None:
    """For `on_app_started`, as often as it comes: takes part in what the Lora extension does with tags."""
    from modules import extra_networks

    if other():
        _say("sd-webui-lora-block-weight is there: it reads lbw=, start=, stop= in prompts, not we.")
        return
    reader = extra_networks.extra_network_registry.get("lora")
    if reader is not None and not isinstance(vars(reader).get("activate"), Activation):
        reader.activate = Activation(reader.activate, reader.name)
    network = sys.modules.get("network")
    if network is not None and unsupported() is None:
        _layer_by_layer(network.NetworkModule)


def _layer_by_layer(module: type) -> None:
    """A layer's strength is what `Weighed` has for it; any other number is what it was."""
    plain = module.multiplier
    if hasattr(plain, "__wrapped__"):
        return

    @functools.wraps(plain)
    def multiplier(self: Any) -> float:
        strength = plain(self)
        return strength.of(self.sd_key) if isinstance(strength, Weighed) else strength

    module.multiplier = multiplier


class Activation:
    """In the place of the Lora extension's `activate(p, params_list)`.

    Args:
        plain: that; it is given what of the tags it can read.
    """

    def __init__(self, plain: Callable[[Any, list], None], name: str):
        self.plain, self.name = plain, name
        self.known: dict[tuple[str, ...], tuple] = {}  # a tag's words -> the weights they last came to

    def __call__(self, p: Any, params_list: list) -> None:
        from modules import extra_networks

        told, tags = [], {}
        for params in params_list:
            values = placed([str(item) for item in params.items])
            tags.setdefault(values["name"], []).append((values, params))
            if not any(name in values for name in OWN):
                told.append(params)
                continue
            plain = {name: values[name] for name in ("name", "te", "unet", "dyn") if name in values}
            told.append(extra_networks.ExtraNetworkParams(items=words_of(plain)))
        self.plain(p, told)
        for name, found in tags.items():
            if any(part in values for values, _ in found for part in OWN):
                self._weigh(p, name, found)

    def _weigh(self, p: Any, name: str, found: Sequence[tuple[dict[str, str], Any]]) -> None:
        """Strengths of the networks that were loaded for these tags."""
        if (reason := unsupported()) is not None:
            p.comment(
                f"<lora:{name}>: lbw=, start= and stop= have no effect here; {reason.partition(';')[0]}"
            )
            return
        try:
            shares = [self._share(p, values, params) for values, params in found]
        except ValueError as e:
            log.warning("%s", e)
            p.comment(f"{e} (without effect in this picture)")
            return
        acts = [named.acts(0) for named, _ in shares]
        for net in sys.modules["networks"].loaded_networks:
            if net.mentioned_name == name:
                whole = [(named.te, blocks, Named(name)) for named, blocks in shares]
                net.te_multiplier = Weighed(whole, [True] * len(whole))
                net.unet_multiplier = Weighed([(named.unet, blocks, named) for named, blocks in shares], acts)

    def _share(self, p: Any, values: dict[str, str], params: Any) -> tuple[Named, BlockWeights | None]:
        tag = f"<lora:{':'.join(map(str, params.items))}>"
        named = named_of(tag, values)
        if not (named.lbw or named.lbwe):
            return named, None
        draw = random.Random(_seed(p))  # noqa: S311 (nobody's secret)
        try:
            blocks = book().weights(named.lbw or "ALL", named.lbwe, x=named.x, draw=draw)
        except ValueError as e:
            raise ValueError(f"{tag}: {e}") from None
        self._remember(p, tuple(map(str, params.items)), blocks)
        return named, blocks

    def _remember(self, p: Any, words: tuple[str, ...], blocks: BlockWeights) -> None:
        """What the text encoder made of prompts is kept by their words: random weights, or a preset that was
        edited, are others under the same."""
        if self.known.get(words) != blocks:
            for cache in (getattr(p, name, None) for name in CACHES):
                if cache:
                    cache[:] = [None] * len(cache)
        if len(self.known) > MANY:
            self.known.clear()
        self.known[words] = blocks


def _seed(p: Any) -> int:
    """Of the first picture that is about to be drawn."""
    seeds = getattr(p, "seeds", None)
    return int(seeds[0] if seeds else p.seed)


def stepped(params: Any) -> None:
    """For `on_cfg_denoiser`: before each call of the denoiser."""
    networks = sys.modules.get("networks")
    for net in networks.loaded_networks if networks is not None else ():
        if isinstance(net.unet_multiplier, Weighed):
            net.unet_multiplier = net.unet_multiplier.at(params.sampling_step)
