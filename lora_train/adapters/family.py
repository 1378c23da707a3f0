"""What families of adapters share: which layers get one, and how large it is."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from lora_train.adapters.chosen import CONVOLUTION, PRESETS
from lora_train.adapters.layer import Layer
from lora_train.adapters.paced import RATIOS, ROWS, Paced
from lora_train.blocks import INDICES, BlockWeights, block_index
from lora_train.knobs import flat, knob

LISTS = ("block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas")


class Adapter(nn.Module):
    """What a family puts on one layer. It holds the layer, and never as a submodule."""

    strength: float = 1.0  # times what it adds
    rests: bool = False  # whether it is left out of a step by chance
    shrinks: bool = True  # whether what it adds can be made smaller
    late: tuple[str, ...] = ()  # names of the parameters that start at zero, where others do not

    def forward(self, x: Tensor, base: Tensor) -> Tensor:
        """x: the layer's input; base: its frozen output -> the adapted output, shaped like base."""
        raise NotImplementedError

    def delta(self) -> Tensor:
        """What is to be added to the layer's weight, at strength 1, shaped like it."""
        raise NotImplementedError

    def bias(self) -> Tensor | None:
        """What is to be added to the layer's bias, at strength 1, where there is such."""
        return None

    def tensors(self) -> dict[str, Tensor]:
        """Name within the layer, as files have it -> tensor."""
        raise NotImplementedError

    def plain(self) -> dict[str, Tensor] | None:
        """What the stock WebUI reads in place of `tensors()`, and which adds exactly the same: a LoRA's
        tensors (`thin.factors`), or {"diff": what is added}. None: it reads `tensors()`."""
        return None

    def thin(self) -> tuple[Tensor, Tensor] | None:
        """Factors [out, rank] and [rank, in * kernel] of `delta()`, where it has any."""
        return None

    def join(self, others: dict[object, Adapter]) -> None:
        """Share with earlier adapters of the network what layers have together.

        Args:
            others: by what tells those that share; to be added to.
        """

    def cut(self, rank: int) -> dict[str, Tensor] | None:
        """A LoRA of its first ranks, where those were trained to stand by themselves."""
        return None

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
        """Multiply `delta()` by ratio, its factors alike; of those alone that `shrinks`."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Family(Paced):
    """Which layers get an adapter, and what it starts from."""

    linear = False  # whether what is added is proportional to what is learned
    of_weight = False  # whether what is added follows from the layer's own weight as well
    own_form = False  # whether the WebUI reads what is made from it, rather than what it is

    scale_weight_norms: float | None = knob(
        None, "Largest norm of what a layer's adapter adds; a larger one is shrunk to it after each step. 1 "
        "is a good start.", group="network", low=1e-6, high=1e6)  # fmt: skip
    weights: pathlib.Path | None = knob(
        None, "Saved LoRA to go on from.", group="network", aka="network_weights", place=True)  # fmt: skip
    dim_from_weights: bool = knob(
        False, "Take layers, dims and alphas from the file to go on from.", group="network"
    )
    module_dropout: float | None = knob(
        None, "Chance of each adapter to be left out of a step.", group="network", low=0,
        high=0.99)  # fmt: skip

    def check(self) -> Iterable[str]:
        yield from super().check()
        if self.dim_from_weights and self.weights is None:
            yield "dim_from_weights = True: expected a file to take them from; set network.weights"
        if self.dim_from_weights and self.layer_map is not None:
            yield "layer_map: expected none beside dim_from_weights, which takes layers from the file"
        if self.dim_from_weights and self.block_weights != BlockWeights():
            yield "block_weights: expected none beside dim_from_weights, which takes layers from the file"

    def put(self, layer: Layer) -> Adapter | None:
        """A fresh adapter with all that goes with it; None for a layer that is left alone."""
        return None if layer.norm else self.make(layer)

    def hold(self, layer: Layer, tensors: Mapping[str, Tensor]) -> Adapter:
        """`like`, with all that a file's adapter has with it.

        Raises:
            ValueError: as `like`.
        """
        return self.like(layer, tensors)

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

    def numbers(self, unet: int, convolutions: int, text: int) -> int:
        """About how many numbers a file has.

        Args:
            unet: widths, inputs and outputs together, of the UNet's layers without 3x3 convolutions.
            convolutions: of those.
            text: of the text encoders' layers.
        """
        raise NotImplementedError

    @property
    def said(self) -> str:
        """A word about its adapters' size."""
        return type(self).__name__


@dataclasses.dataclass(frozen=True)
class Sized(Family):
    """Families whose adapters have a size to be chosen."""

    dim: int = knob(
        4, "Rank: how much an adapter can learn, and how large the file gets. Of OFT and BOFT the size of a "
        "block.", group="network", low=1, high=512, aka="network_dim", basic=True)  # fmt: skip

    @property
    def said(self) -> str:
        return f"rank {self.dim}"


@dataclasses.dataclass(frozen=True)
class Scaled(Sized):
    """Families whose adapters have a rank and an alpha."""

    alpha: float | None = knob(
        1.0, "What an adapter adds is multiplied by alpha/dim. 0 or empty: alpha is dim.", group="network",
        low=0, aka="network_alpha", basic=True)  # fmt: skip
    dropout: float | None = knob(
        None, "Share of the values between an adapter's two factors that are dropped while training.",
        group="network", low=0, high=0.99, aka="network_dropout")  # fmt: skip
    rank_dropout: float | None = knob(
        None, "Share of the ranks that are dropped while training, for each sample anew.", group="network",
        low=0, high=0.99)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Ranked(Scaled):
    """Those that have them in convolutions too, and in each block others."""

    conv_dim: int | None = knob(
        None, "Rank in 3x3 convolutions. Setting it adds the resnets, down- and upsamplers (LoCon). Empty: "
        "only attention and feed-forward layers.", group="network", low=1, high=512)  # fmt: skip
    conv_alpha: float | None = knob(
        1.0, "Alpha in 3x3 convolutions. 0 or empty: conv_dim.", group="network", low=0)  # fmt: skip
    block_dims: tuple[int, ...] | None = knob(
        None, "25 ranks in place of dim in the UNet: 12 blocks down (the first has no such layers), the "
        "middle, 12 blocks up; for SDXL also sd-scripts' 23. 0: no adapter.", group="blocks", low=0,
        high=512)  # fmt: skip
    block_alphas: tuple[float, ...] | None = knob(
        None, "As many values in place of alpha in the UNet.", group="blocks", low=0)  # fmt: skip
    conv_block_dims: tuple[int, ...] | None = knob(
        None, "25 or 23 ranks in place of conv_dim. 0: no adapter.", group="blocks", low=0,
        high=512)  # fmt: skip
    conv_block_alphas: tuple[float, ...] | None = knob(
        None, "As many values in place of conv_alpha.", group="blocks", low=0)  # fmt: skip

    def check(self) -> Iterable[str]:
        yield from super().check()
        for name in LISTS:
            values = vars(self)[name]
            if values is not None and len(values) not in INDICES:
                text = ",".join(map(str, values))
                yield f"{name} = {text}: expected 25 values, or SDXL's 23; got {len(values)}"
        if self.conv_block_alphas is not None and not self.convolutions:
            yield "conv_block_alphas: expected conv_dim or conv_block_dims beside it"

    copies = 1  # LoRAs of its rank that a file of it is about as large as

    def numbers(self, unet: int, convolutions: int, text: int) -> int:
        count = unet * self.dim * self.trains("unet") + text * self.dim * self.trains("te1")
        return self.copies * (count + convolutions * self.wide_dim * self.trains("unet"))

    @property
    def wide_dim(self) -> int:
        """Rank in 3x3 convolutions; 0 where they get no adapter."""
        if self.layer_map is not None:  # about, for a layer may have its own
            return (self.conv_dim or self.dim) if self.resnets and self.layer_map.said["enable_conv"] else 0
        if self.preset is None:
            return self.conv_dim or 0
        chosen = PRESETS[self.preset]
        return (self.conv_dim or self.dim) if chosen.kernels and CONVOLUTION in chosen.unet else 0

    @property
    def convolutions(self) -> bool:
        """Whether resnets, down- and upsamplers get adapters too."""
        return self.conv_dim is not None or self.conv_block_dims is not None

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
        if layer.part == "unet":
            dim, alpha = _of_block(dims, layer, dim), _of_block(alphas, layer, alpha)
        return (dim, self.scaled(dim, alpha or dim) * strength) if dim else None

    def scaled(self, dim: int, alpha: float) -> float:
        """The alpha of an adapter and of the file, both of which are taken over dim."""
        return alpha

    def strays(self, layers: Iterable[Layer]) -> list[str]:
        """Also lists of blocks that this model has not."""
        every = list(layers)
        short = [name for name in LISTS if len(vars(self)[name] or ()) == INDICES[1]]
        if any(layer.arch == "sdxl" for layer in every):
            short = []
        more = [f"{name}: 23 values are SDXL's; this model's blocks take {INDICES[0]}" for name in short]
        return [*super().strays(every), *more]

    def remarks(self, arch: str) -> list[str]:
        long = [name for name in LISTS if len(vars(self)[name] or ()) == INDICES[0]] * (arch == "sdxl")
        more = [
            f"{name}: 25 values go to IN00 to IN11, M00, OUT00 to OUT11; SDXL has none of IN09 to IN11 and "
            "OUT09 to OUT11" for name in long
        ]  # fmt: skip
        return [*super().remarks(arch), *more]

    def record(self) -> dict[str, object]:
        """`ss_network_args` as sd-scripts has them: what was set beyond dim and alpha, as text."""
        drops, blocks = ("rank_dropout", "module_dropout"), ("block_dims", "block_alphas")
        convolutions = ("conv_dim", "conv_alpha", "conv_block_dims", "conv_block_alphas") * self.convolutions
        own = flat(self)
        named = (*convolutions, *drops, *blocks, *ROWS, *RATIOS)
        args = {name: own[name] for name in named if own[name] is not None}
        found: dict[str, object] = {
            "ss_network_dim": "Dynamic" if self.dim_from_weights else self.dim,
            "ss_network_alpha": "Dynamic" if self.dim_from_weights else self.alpha,
            "ss_network_dropout": self.dropout,
        }
        if args:
            texts = {k: ",".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in args.items()}
            found["ss_network_args"] = json.dumps({**texts, "dropout": self.dropout})
        return found


def _of_block(values: Sequence[float] | None, layer: Layer, usual: float | None) -> float | None:
    """A layer's of a list for blocks; `usual` where there is none for it."""
    index = block_index(layer.path, len(values)) if values else None
    return usual if index is None else values[index]
