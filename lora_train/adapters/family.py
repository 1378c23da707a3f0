"""What families of adapters share: which layers get one, and how large it is."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from lora_train.adapters.layer import Layer
from lora_train.blocks import BlockWeights, block_index
from lora_train.knobs import flat, knob

ATTENTION = re.compile(r"\.(proj_in|proj_out|transformer_blocks\..+)$")
CONVOLUTION = re.compile(r"\.(in_layers\.2|emb_layers\.1|out_layers\.3|skip_connection|op|conv)$")
ENDS = re.compile(r"^(input_blocks\.0\.0|out\.2|time_embed\.[02])$")
TEXT = re.compile(r"\.(self_attn|mlp)\.\w+$")
INDICES = 25  # of blocks, in sd-scripts' lists


class Adapter(nn.Module):
    """What a family puts on one layer. It holds the layer, and never as a submodule."""

    strength: float = 1.0  # times what it adds
    rests: bool = False  # whether it is left out of a step by chance

    def forward(self, x: Tensor, base: Tensor) -> Tensor:
        """x: the layer's input; base: its frozen output -> the adapted output, shaped like base."""
        raise NotImplementedError

    def delta(self) -> Tensor:
        """What is to be added to the layer's weight, at strength 1, shaped like it."""
        raise NotImplementedError

    def tensors(self) -> dict[str, Tensor]:
        """Name within the layer, as files have it -> tensor."""
        raise NotImplementedError

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take a file's tensors, so that the adapter does what the file says.

        Raises:
            ValueError: they do not fit; the message is a clause about them.
        """
        raise NotImplementedError

    def norm(self) -> Tensor:
        """Frobenius norm of `delta()`; []."""
        raise NotImplementedError

    def shrink(self, ratio: Tensor) -> None:
        """Multiply `delta()` by ratio, its factors alike."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Family:
    """Which layers get an adapter, and what it starts from."""

    train_unet_only: bool = knob(
        False, "Leave the text encoder as it is.", group="network", basic=True,
        aka="network_train_unet_only")  # fmt: skip
    train_text_encoder_only: bool = knob(
        False, "Leave the UNet as it is.", group="network",
        aka="network_train_text_encoder_only")  # fmt: skip
    block_weights: BlockWeights = knob(
        BlockWeights(), "Strength of each block, as a preset (ALL, INS, MIDD, OUTALL, …) or 12, 17, 20 or 26 "
        "numbers. Blocks at 0 get no adapter; other numbers are worked into alpha, so the file acts as it "
        "was trained.", group="blocks")  # fmt: skip
    scale_weight_norms: float | None = knob(
        None, "Largest norm of what a layer's adapter adds; a larger one is shrunk to it after each step. 1 "
        "is a good start.", group="network", low=1e-6, high=1e6)  # fmt: skip
    weights: pathlib.Path | None = knob(
        None, "Saved LoRA to go on from.", group="network", aka="network_weights", place=True)  # fmt: skip
    dim_from_weights: bool = knob(
        False, "Take layers, dims and alphas from the file to go on from.", group="network"
    )

    def check(self) -> Iterable[str]:
        if self.train_unet_only and self.train_text_encoder_only:
            yield "train_unet_only = True: expected not beside train_text_encoder_only; nothing is left"
        if self.dim_from_weights and self.weights is None:
            yield "dim_from_weights = True: expected a file to take them from; set network.weights"
        if self.dim_from_weights and self.block_weights != BlockWeights():
            yield "block_weights: expected none beside dim_from_weights, which takes layers from the file"

    def trains(self, part: str) -> bool:
        """Whether a part gets adapters at all."""
        return not (self.train_text_encoder_only if part == "unet" else self.train_unet_only)

    def make(self, layer: Layer) -> Adapter | None:
        """A fresh adapter, which changes nothing; None for a layer that is left alone."""
        raise NotImplementedError

    def like(self, layer: Layer, tensors: Mapping[str, Tensor]) -> Adapter:
        """An adapter of the size of a file's tensors, holding them.

        Raises:
            ValueError: they are not of this family, or of no such layer.
        """
        raise NotImplementedError

    def record(self) -> dict[str, object]:
        """What a saved file's metadata says about it, as sd-scripts names it."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Layers:
    """A choice of layers."""

    unet: tuple[re.Pattern[str], ...]
    text: re.Pattern[str] | None
    kernels: bool = True  # whether convolutions beyond 1x1 are in it


PRESETS = {  # LyCORIS' (`lycoris/config.py` 3.4.0), of which "full" is its default
    "full": Layers((ATTENTION, CONVOLUTION, ENDS), TEXT),
    "full-lin": Layers((ATTENTION, CONVOLUTION, ENDS), TEXT, kernels=False),
    "attn-mlp": Layers((ATTENTION,), TEXT),
    "attn-only": Layers((re.compile(r"\.attn[12]\.to_\w+(\.0)?$"),), re.compile(r"\.self_attn\.\w+$")),
    "unet-only": Layers((ATTENTION, CONVOLUTION, ENDS), None),
    "unet-transformer-only": Layers((ATTENTION,), None),
    "unet-convblock-only": Layers((CONVOLUTION,), None),
}


@dataclasses.dataclass(frozen=True)
class Ranked(Family):
    """Families whose adapters have a rank and an alpha."""

    dim: int = knob(
        4, "Rank: how much an adapter can learn, and how large the file gets.", group="network", low=1,
        high=512, aka="network_dim", basic=True)  # fmt: skip
    alpha: float | None = knob(
        1.0, "What an adapter adds is multiplied by alpha/dim. 0 or empty: alpha is dim.", group="network",
        low=0, aka="network_alpha", basic=True)  # fmt: skip
    conv_dim: int | None = knob(
        None, "Rank in 3x3 convolutions. Setting it adds the resnets, down- and upsamplers (LoCon). Empty: "
        "only attention and feed-forward layers.", group="network", low=1, high=512)  # fmt: skip
    conv_alpha: float | None = knob(
        1.0, "Alpha in 3x3 convolutions. 0 or empty: conv_dim.", group="network", low=0)  # fmt: skip
    dropout: float | None = knob(
        None, "Share of the values between an adapter's two factors that are dropped while training.",
        group="network", low=0, high=0.99, aka="network_dropout")  # fmt: skip
    rank_dropout: float | None = knob(
        None, "Share of the ranks that are dropped while training, for each sample anew.", group="network",
        low=0, high=0.99)  # fmt: skip
    module_dropout: float | None = knob(
        None, "Chance of each adapter to be left out of a step.", group="network", low=0,
        high=0.99)  # fmt: skip
    preset: str | None = knob(
        None, "Which layers get an adapter, by LyCORIS' names. Empty: as sd-scripts, attention and "
        "feed-forward, and with conv_dim the resnets, down- and upsamplers.", group="network",
        choices=tuple(PRESETS))  # fmt: skip
    block_dims: tuple[int, ...] | None = knob(
        None, "25 ranks in place of dim in the UNet: 12 blocks down (the first has no such layers), the "
        "middle, 12 blocks up. 0: no adapter.", group="blocks", low=0, high=512)  # fmt: skip
    block_alphas: tuple[float, ...] | None = knob(
        None, "25 values in place of alpha in the UNet.", group="blocks", low=0)  # fmt: skip
    conv_block_dims: tuple[int, ...] | None = knob(
        None, "25 ranks in place of conv_dim. 0: no adapter.", group="blocks", low=0, high=512)  # fmt: skip
    conv_block_alphas: tuple[float, ...] | None = knob(
        None, "25 values in place of conv_alpha.", group="blocks", low=0)  # fmt: skip

    def check(self) -> Iterable[str]:
        yield from super().check()
        for name in ("block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas"):
            values = vars(self)[name]
            if values is not None and len(values) != INDICES:
                text = ",".join(map(str, values))
                yield f"{name} = {text}: expected {INDICES} values, one for each block; got {len(values)}"
        if self.conv_block_alphas is not None and not self.convolutions:
            yield "conv_block_alphas: expected conv_dim or conv_block_dims beside it"

    copies = 1  # LoRAs of its rank that a file of it is about as large as

    def trains(self, part: str) -> bool:
        """A preset may leave the text encoders out."""
        left_out = self.preset is not None and part != "unet" and PRESETS[self.preset].text is None
        return super().trains(part) and not left_out

    @property
    def wide_dim(self) -> int:
        """Rank in 3x3 convolutions; 0 where they get no adapter."""
        if self.preset is None:
            return self.conv_dim or 0
        chosen = PRESETS[self.preset]
        return (self.conv_dim or self.dim) if chosen.kernels and CONVOLUTION in chosen.unet else 0

    @property
    def convolutions(self) -> bool:
        """Whether resnets, down- and upsamplers get adapters too."""
        return self.conv_dim is not None or self.conv_block_dims is not None

    def wants(self, layer: Layer) -> bool:
        """sd-scripts' choice: what stands in Transformer2DModel, CLIPAttention and CLIPMLP, and with
        convolutions in ResnetBlock2D, Downsample2D and Upsample2D."""
        if not self.trains(layer.part):
            return False
        if self.preset is not None:
            chosen = PRESETS[self.preset]
            if not chosen.kernels and any(side > 1 for side in layer.kernel):
                return False
            patterns = chosen.unet if layer.part == "unet" else [chosen.text] * (chosen.text is not None)
            return any(pattern.search(layer.path) for pattern in patterns)
        if layer.part != "unet":
            return TEXT.search(layer.path) is not None
        chosen = ATTENTION.search(layer.path) or (self.convolutions and CONVOLUTION.search(layer.path))
        return bool(chosen)

    def size(self, layer: Layer) -> tuple[int, float] | None:
        """Rank and alpha of a layer's adapter; None where it gets none.

        A block's strength is worked into alpha: so it acts in training, and the saved file does by itself
        what was trained.
        """
        strength = self.block_weights.strength(layer.part, layer.path)
        if not strength or not self.wants(layer):
            return None
        dim, alpha, dims, alphas = self.dim, self.alpha, self.block_dims, self.block_alphas
        if any(side > 1 for side in layer.kernel) and (self.convolutions or self.preset is None):
            dim, alpha = self.conv_dim, self.conv_alpha
            dims, alphas = self.conv_block_dims, self.conv_block_alphas
        index = block_index(layer.path) if layer.part == "unet" else None
        if index is not None:
            dim = dims[index] if dims else dim
            alpha = alphas[index] if alphas else alpha
        return (dim, (alpha or dim) * strength) if dim else None

    def record(self) -> dict[str, object]:
        """`ss_network_args` as sd-scripts has them: what was set beyond dim and alpha, as text."""
        drops, blocks = ("rank_dropout", "module_dropout"), ("block_dims", "block_alphas")
        convolutions = ("conv_dim", "conv_alpha", "conv_block_dims", "conv_block_alphas") * self.convolutions
        own = flat(self)
        args = {name: own[name] for name in (*convolutions, *drops, *blocks) if own[name] is not None}
        found: dict[str, object] = {
            "ss_network_dim": "Dynamic" if self.dim_from_weights else self.dim,
            "ss_network_alpha": "Dynamic" if self.dim_from_weights else self.alpha,
            "ss_network_dropout": self.dropout,
        }
        if args:
            texts = {k: ",".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in args.items()}
            found["ss_network_args"] = json.dumps({**texts, "dropout": self.dropout})
        return found
