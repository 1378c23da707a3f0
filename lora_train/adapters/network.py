"""Network: the adapters of a run, and how they get between the layers of a model that is not ours."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lora_train.adapters.family import Adapter, Family
from lora_train.adapters.kept import Kept
from lora_train.adapters.layer import Layer
from lora_train.adapters.word import Word
from lora_train.blocks import BlockWeights, region, row_id
from lora_train.errors import Mistake


@dataclasses.dataclass
class Pace:
    """Parameters that learn at one rate."""

    name: str  # "unet", "unet_IN04", "te1_plus"
    part: str
    times: float  # the part's rate
    parameters: list[nn.Parameter]


class Network(nn.Module):
    """One adapter for each layer that `make` makes one for; on the layer's device, in float32.

    Args:
        make: `family.put` if not given.

    Raises:
        Mistake: no layer is left.
    """

    def __init__(
        self, family: Family, layers: Iterable[Layer], make: Callable[[Layer], Adapter | None] | None = None
    ):
        super().__init__()
        self.family = family
        self.layers: dict[str, Layer] = {}  # "unet.input_blocks.1.1.proj_in" -> layer
        self.adapters: dict[str, Adapter] = {}
        others: dict[object, Adapter] = {}
        for layer in layers:
            adapter = (make or family.put)(layer)
            if adapter is None:
                continue
            if layer.key in self.layers:
                raise ValueError(f"two layers are called {layer.key}")
            self.layers[layer.key] = layer
            self.adapters[layer.key] = adapter.to(layer.weight().device)
            adapter.join(others)
            self.add_module(_name(layer.key), adapter)
        if not self.adapters:
            raise Mistake(
                "network: no layer is left to train; look at block_weights, block_dims, preset, "
                "train_unet_only and train_text_encoder_only"
            )
        self.word: Word | None = None  # that is learned along with them
        self.kept = nn.ModuleDict()  # what earlier adapters came to, by `_name`
        self._handles: list[RemovableHandle] = []
        self._ran: set[str] = set()
        self._on = True

    @property
    def strength(self) -> float:
        """Times what the adapters add; 1 while training."""
        return next(iter(self.adapters.values())).strength

    @strength.setter
    def strength(self, value: float) -> None:
        for adapter in self.adapters.values():
            adapter.strength = value

    @property
    def strengths(self) -> dict[str, float]:
        """Of each layer's adapter."""
        return {key: adapter.strength for key, adapter in self.adapters.items()}

    @strengths.setter
    def strengths(self, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self.adapters[key].strength = value

    def weigh(self, te: float, unet: float, blocks: BlockWeights | None = None) -> None:
        """Strengths on the text encoders and on the UNet, and times these of each layer's block; also while
        attached."""
        for key, layer in self.layers.items():
            times = 1.0 if blocks is None else blocks.strength(layer.part, layer.path)
            self.adapters[key].strength = (unet if layer.part == "unet" else te) * times

    @contextlib.contextmanager
    def attached(self) -> Iterator[Network]:
        """Hooks, because a hook leaves the host's classes, attributes and state-dict keys alone, and comes
        off exactly; see docs/decisions/injection.md for what the other ways break."""
        if self._handles:
            raise RuntimeError("this network is attached already")
        self._ran.clear()
        try:
            for key, layer in self.layers.items():
                self._handles.append(layer.module.register_forward_hook(self._hook(key)))
            yield self
        finally:
            while self._handles:
                self._handles.pop().remove()

    def move(self, layers: Iterable[Layer]) -> None:
        """On to the same layers of a model that was loaded anew; while not attached.

        Raises:
            Mistake: it has not the same layers.
        """
        if self._handles:
            raise RuntimeError("this network is attached")
        there = {layer.key: layer for layer in layers}
        for key, layer in self.layers.items():
            if key not in there or there[key].shape != layer.shape:
                raise Mistake(f"{key}: the model that is loaded now has no such layer; it is another one")
        self.layers = {key: there[key] for key in self.layers}
        for key, adapter in self.adapters.items():
            for part in adapter.modules():  # one may be around another
                if isinstance(part, Adapter):
                    part.layer = there[key]
            if (before := self.before(key)) is not None:
                before.layer = there[key]

    def _hook(self, key: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        adapter, ran = self.adapters[key], self._ran
        adapt = adapter.forward

        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            ran.add(key)
            if not self._on or not (adapter.strength or torch.is_grad_enabled()):
                return None  # one that learns has to have a gradient, be it zero
            made, before = adapt(inputs[0], output), self.before(key) if self.kept else None
            return made if before is None else before(inputs[0], made, adapter.strength)

        return hook

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """The model as it is without us. Only under `no_grad`: gradient checkpointing runs the forward again
        in the backward pass, when this has ended."""
        before, self._on = self._on, False
        try:
            yield
        finally:
            self._on = before

    @contextlib.contextmanager
    def merged(self) -> Iterator[None]:
        """The adapters worked into the layers' weights, which after it are what they were, to the bit."""
        kept: dict[str, Tensor] = {}
        biases: dict[str, Tensor] = {}
        try:
            with torch.no_grad():
                for key, adapter in self.adapters.items():
                    kept[key] = _added(self.layers[key].weight(), adapter.strength * self.delta(key))
                    if (bias := adapter.bias()) is not None:
                        biases[key] = _added(self.layers[key].bias.detach(), adapter.strength * bias)
            with self.off():
                yield
        finally:
            with torch.no_grad():
                for key, weight in kept.items():
                    self.layers[key].weight().copy_(weight)
                for key, bias in biases.items():
                    self.layers[key].bias.detach().copy_(bias)

    def silent(self) -> list[str]:
        """Adapters that the model does not use, to be asked between a backward pass and the optimizer's step:
        their hook never ran, or no gradient came. (A gradient of zero is normal; that of an adapter which may
        rest can be missing by chance.)"""
        return [
            key
            for key, adapter in self.adapters.items()
            if key not in self._ran or not (adapter.rests or _learns(adapter))
        ]

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """{"te1": parameters, "unet": parameters}, of those that have any; text encoders first."""
        found: dict[str, list[nn.Parameter]] = {}
        for key in sorted(self.adapters, key=lambda key: self.layers[key].part):
            found.setdefault(self.layers[key].part, []).extend(self.adapters[key].parameters())
        return found

    def paces(self) -> list[Pace]:
        """What has the same learning rate together: a part, of the UNet the blocks with a rate of their own,
        and of each the factors that LoRA+ has learn faster. What is shared learns as its first layer does."""
        places: dict[int, tuple[str, float]] = {}
        for key, adapter in self.adapters.items():
            layer = self.layers[key]
            times, ratio = self.family.pace(layer), self.family.ratio(layer.part)
            block = f"_{row_id(layer.path, layer.arch)}" if times != 1 else ""
            for name, parameter in adapter.named_parameters():
                late = ratio != 1 and name.rpartition(".")[2] in adapter.late
                plus, more = ("_plus", ratio) if late else ("", 1.0)
                places.setdefault(id(parameter), (layer.part + block + plus, times * more))
        found: dict[str, Pace] = {}
        for part, parameters in self.parts().items():
            for parameter in parameters:
                name, times = places[id(parameter)]
                found.setdefault(name, Pace(name, part, times, [])).parameters.append(parameter)
        return list(found.values())

    @torch.no_grad()
    def norms(self) -> Tensor:
        """Of what each adapter adds, at strength 1; in the order of `adapters`."""
        return torch.stack(
            [
                adapter.norm() if self.before(key) is None else self.delta(key).norm()
                for key, adapter in self.adapters.items()
            ]
        )

    @torch.no_grad()
    def regions(self) -> dict[str, Tensor]:
        """Frobenius norm [] of all that each block's adapters add, as "block/IN04"; without waiting for a
        GPU."""
        found: dict[str, list[Tensor]] = {}
        for layer, norm in zip(self.layers.values(), self.norms().unbind(), strict=True):
            found.setdefault(region(layer.part, layer.path, layer.arch), []).append(norm)
        return {f"block/{name}": torch.stack(found[name]).norm() for name in sorted(found)}

    def delta(self, key: str) -> Tensor:
        """What a layer's weight gains, of the adapter and of those before it."""
        made, before = self.adapters[key].delta(), self.before(key)
        return made if before is None else made + before.delta()

    def before(self, key: str) -> Kept | None:
        """What a layer's earlier adapters came to, where there were any."""
        name = _name(key)
        if name not in self.kept:
            return None
        return self.kept[name]

    def keep(self, key: str) -> Kept:
        """The same; to be filled where there were none."""
        if _name(key) not in self.kept:
            self.kept[_name(key)] = Kept(self.layers[key])
        return self.kept[_name(key)]

    @torch.no_grad()
    def restart(self, fresh: Network) -> None:
        """Keep what the adapters add, and let them be those of another network of this one's making."""
        for key, adapter in self.adapters.items():
            self.keep(key).add(adapter)
        for key, adapter in self.adapters.items():
            adapter.load_state_dict(fresh.adapters[key].state_dict())

    def load_state_dict(
        self, state: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> object:
        """Also of a network that has kept more than this one, or less."""
        self.kept = nn.ModuleDict()
        for key in self.layers:
            lead = f"kept.{_name(key)}."
            found = {name[len(lead) :]: tensor for name, tensor in state.items() if name.startswith(lead)}
            if found:
                self.keep(key).load(found)
        return super().load_state_dict(state, strict, assign)

    @torch.no_grad()
    def max_norm(self, limit: float) -> dict[str, Tensor]:
        """Shrink what adds more than `limit`, in Frobenius norm, to it; without waiting for a GPU.

        Returns:
            How many were, and the mean and largest norm after it, under the names sd-scripts logs.
        """
        norms = self.norms()
        ratios = (limit / norms).clamp(max=1)
        for adapter, ratio in zip(self.adapters.values(), ratios.unbind(), strict=True):
            adapter.shrink(ratio)
        after = norms.clamp(max=limit)
        return {
            "max_norm/keys_scaled": (norms > limit).sum(),
            "max_norm/average_key_norm": after.mean(),
            "max_norm/max_key_norm": after.max(),
        }


def _added(there: Tensor, more: Tensor) -> Tensor:
    """Add in place, in float32 at least. -> what was there"""
    before, wide = there.clone(), torch.promote_types(there.dtype, torch.float32)
    there.copy_(there.to(wide) + more.to(wide))
    return before


def _name(key: str) -> str:
    """As a module's, in which no dot may be."""
    return key.replace(".", "_")


def _learns(adapter: Adapter) -> bool:
    rests = not any(p.requires_grad for p in adapter.parameters())  # a person has it stay as it is
    return rests or any(p.grad is not None for p in adapter.parameters())
