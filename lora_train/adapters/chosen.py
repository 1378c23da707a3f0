"""Which layers of a model get an adapter."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable

from lora_train.adapters.layer import Layer
from lora_train.adapters.layermap import LayerMap
from lora_train.blocks import BlockWeights
from lora_train.knobs import knob
from lora_train.names import file_key
from lora_train.values import shown

ATTENTION = re.compile(r"\.(proj_in|proj_out|transformer_blocks\..+)$")
CONVOLUTION = re.compile(r"\.(in_layers\.2|emb_layers\.1|out_layers\.3|skip_connection|op|conv)$")
ENDS = re.compile(r"^(input_blocks\.0\.0|out\.2|time_embed\.[02])$")
TEXT = re.compile(r"\.(self_attn|mlp)\.\w+$")

NORMS = (  # layers -> the norms beside them
    (ATTENTION, re.compile(r"\.(norm|transformer_blocks\.\d+\.norm[123])$")),
    (CONVOLUTION, re.compile(r"\.(in|out)_layers\.0$")),
)


@dataclasses.dataclass(frozen=True)
class Layers:
    """A choice of layers."""

    unet: tuple[re.Pattern[str], ...]
    text: re.Pattern[str] | None
    kernels: bool = True  # whether convolutions beyond 1x1 are in it


def _projections(attention: str) -> re.Pattern[str]:
    return re.compile(rf"\.{attention}\.to_\w+(\.0)?$")


PRESETS = {
    # LyCORIS' (`lycoris/config.py` 3.4.0), of which "full" is its default
    "full": Layers((ATTENTION, CONVOLUTION, ENDS), TEXT),
    "full-lin": Layers((ATTENTION, CONVOLUTION, ENDS), TEXT, kernels=False),
    "attn-mlp": Layers((ATTENTION,), TEXT),
    "attn-only": Layers((_projections("attn[12]"),), re.compile(r"\.self_attn\.\w+$")),
    "unet-only": Layers((ATTENTION, CONVOLUTION, ENDS), None),
    "unet-transformer-only": Layers((ATTENTION,), None),
    "unet-convblock-only": Layers((CONVOLUTION,), None),
    # LECO's xattn and selfattn
    "cross-attn-only": Layers((_projections("attn2"),), None),
    "self-attn-only": Layers((_projections("attn1"),), None),
    # where (IA)3 was found to be enough
    "ia3": Layers((re.compile(r"\.(to_k|to_v|ff\.net\.2)$"),), re.compile(r"\.(k_proj|v_proj|mlp\.fc2)$")),
}


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Which layers: of which part, by which preset, in which blocks, under which names."""

    train_unet_only: bool = knob(
        False, "Leave the text encoder as it is.", group="network", basic=True,
        aka="network_train_unet_only")  # fmt: skip
    train_text_encoder_only: bool = knob(
        False, "Leave the UNet as it is.", group="network",
        aka="network_train_text_encoder_only")  # fmt: skip
    preset: str | None = knob(
        None, "Which layers get an adapter, by LyCORIS' names. Empty: as sd-scripts, attention and "
        "feed-forward, and with conv_dim the resnets, down- and upsamplers.", group="network",
        choices=tuple(PRESETS))  # fmt: skip
    layer_map: LayerMap | None = knob(
        None, "In place of a preset, layers and for each the family, dim, alpha and more: what stands in a "
        "preset file of LyCORIS, as TOML or JSON; on the command line the path of the .toml file.",
        group="network")  # fmt: skip
    include_patterns: tuple[str, ...] | None = knob(
        None, "Regular expressions, with commas between. Of the chosen layers only those get an adapter in "
        "whose name one is found: the name in a saved file, or the path (unet.middle_block.1.proj_in).",
        group="network")  # fmt: skip
    exclude_patterns: tuple[str, ...] | None = knob(
        None, "Regular expressions, with commas between. Layers in whose name one is found get no adapter.",
        group="network")  # fmt: skip
    block_weights: BlockWeights = knob(
        BlockWeights(), "Strength of each block, as a preset (ALL, INS, MIDD, OUTALL, …) or 12, 17, 20 or 26 "
        "numbers; IN05-OUT05:attn:0.5 behind a | is another for layers of such names. Layers at 0 get no "
        "adapter; other numbers are worked into alpha, so the file acts as it was trained.",
        group="blocks")  # fmt: skip

    def check(self) -> Iterable[str]:
        if self.train_unet_only and self.train_text_encoder_only:
            yield "train_unet_only = True: expected not beside train_text_encoder_only; nothing is left"
        if self.layer_map is not None and self.preset is not None:
            yield f"preset = {self.preset}: expected none beside layer_map, which says the layers"
        for name in ("include_patterns", "exclude_patterns"):
            for pattern in vars(self)[name] or ():
                try:
                    re.compile(pattern)
                except re.error as e:
                    yield f"{name} = {shown(pattern)}: expected a regular expression; {e}"

    convolutions = False  # whether resnets, down- and upsamplers are in it without a preset

    def trains(self, part: str) -> bool:
        """Whether a part gets adapters at all; a preset may leave the text encoders out."""
        if self.layer_map is not None and not self.layer_map.trains(part):
            return False
        if part != "unet" and self.preset is not None and PRESETS[self.preset].text is None:
            return False
        return not (self.train_text_encoder_only if part == "unet" else self.train_unet_only)

    def wants(self, layer: Layer) -> bool:
        """Without a preset sd-scripts' choice: what stands in Transformer2DModel, CLIPAttention and CLIPMLP,
        and with convolutions in ResnetBlock2D, Downsample2D and Upsample2D."""
        return not layer.norm and self.trains(layer.part) and self._preset(layer) and self._named(layer)

    def wants_norm(self, layer: Layer) -> bool:
        """Those of the UNet that stand beside layers of the choice: in its transformers, in its resnets."""
        groups = self._groups()
        there = any(own.search(layer.path) for others, own in NORMS if others in groups)
        return layer.norm and self.trains("unet") and there and self._named(layer)

    @property
    def normed(self) -> bool:
        """Whether there are any."""
        return any(others in self._groups() for others, _ in NORMS)

    @property
    def choice(self) -> str | None:
        """LyCORIS' name for it, whose own is "full"; None where it has none."""
        return self.preset or (None if self.convolutions else "attn-mlp")

    @property
    def resnets(self) -> bool:
        """Whether resnets, down- and upsamplers are in it."""
        return CONVOLUTION in self._groups()

    def _groups(self) -> tuple[re.Pattern[str], ...]:
        """Patterns of the UNet's layers."""
        if self.layer_map is not None:
            kinds = self.layer_map.said["unet_target_module"]
            return (ATTENTION,) * ("Transformer2DModel" in kinds) + (CONVOLUTION,) * (
                "ResnetBlock2D" in kinds
            )
        if self.preset is not None:
            return PRESETS[self.preset].unet
        return (ATTENTION, CONVOLUTION) if self.convolutions else (ATTENTION,)

    def _preset(self, layer: Layer) -> bool:
        if self.layer_map is not None:
            return self.layer_map.rule(layer) is not None
        if self.preset is not None:
            chosen = PRESETS[self.preset]
            if not chosen.kernels and any(side > 1 for side in layer.kernel):
                return False
            patterns = chosen.unet if layer.part == "unet" else [chosen.text] * (chosen.text is not None)
            return any(pattern.search(layer.path) for pattern in patterns)
        if layer.part != "unet":
            return TEXT.search(layer.path) is not None
        return bool(ATTENTION.search(layer.path) or (self.convolutions and CONVOLUTION.search(layer.path)))

    def _named(self, layer: Layer) -> bool:
        if self.include_patterns is None and self.exclude_patterns is None:
            return True
        names = called(layer)
        included = self.include_patterns is None or _hit(self.include_patterns, names)
        return included and not _hit(self.exclude_patterns or (), names)

    def strays(self, layers: Iterable[Layer]) -> list[str]:
        """A complaint for each pattern that is found in no layer's name, with names that are like it."""
        every = [layer for layer in layers if self.trains(layer.part)]
        lost = [] if self.layer_map is None else self.layer_map.strays(every)
        complaints = [f"layer_map: {name}: found in no layer's name" for name in lost]
        for name in ("include_patterns", "exclude_patterns"):
            there = [called(layer) for layer in every if name[0] == "e" or self._preset(layer)]
            for pattern in vars(self)[name] or ():
                if not any(_hit([pattern], names) for names in there):
                    complaints.append(
                        f"{name} = {shown(pattern)}: found in no layer's name{_near(pattern, there)}"
                    )
        return complaints


def called(layer: Layer) -> tuple[str, str]:
    """Names that a pattern is looked for in: the path with its part, and the key in a saved file."""
    try:
        key = file_key(layer.part, layer.path, layer.arch)
    except KeyError:  # a layer that no file can have
        key = layer.key
    return layer.key, key


def _hit(patterns: Iterable[str], names: Iterable[str]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns for name in names)


def _near(pattern: str, there: Iterable[tuple[str, str]]) -> str:
    names = {name for names in there for name in names}
    word = re.sub(r"\\(.)", r"\1", pattern)
    ends = {end: name for name in sorted(names) for end in _ends(name)}
    near = difflib.get_close_matches(word, ends, n=3, cutoff=0.5)
    found = [*dict.fromkeys(ends[end] for end in near)]
    return f"; names are like {', '.join(found or sorted(names)[:1])}" if names else ""


def _ends(name: str) -> list[str]:
    """ "a.b.c" -> "a.b.c", "b.c", "c"."""
    words = name.split(".")
    return [".".join(words[i:]) for i in range(len(words))]
