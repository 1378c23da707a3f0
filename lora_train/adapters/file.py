"""Network and file: what a saved LoRA holds, and what of other people's files can be read."""

from __future__ import annotations

import logging
import pathlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from lora_train.adapters import FAMILIES
from lora_train.adapters.export import DIFF, made_from, readable
from lora_train.adapters.family import Family
from lora_train.adapters.fourfold import missing, unfilled
from lora_train.adapters.kept import parted
from lora_train.adapters.layer import Layer
from lora_train.adapters.lora import Lora
from lora_train.adapters.mapped import maker
from lora_train.adapters.network import Network
from lora_train.adapters.spelled import opened
from lora_train.adapters.word import Word, layered
from lora_train.errors import Mistake
from lora_train.models.written import write
from lora_train.names import ARCHS, file_key, path_of
from lora_train.weights import PICKLES

log = logging.getLogger(__name__)

KINDS = (  # a pattern that some key of the file matches -> what the file is; the first that does
    (r"^model\.diffusion_model\.", "a whole checkpoint"),
    (r"^(first_stage_model|post_quant_conv)\.", "an autoencoder (VAE)"),
    (r"^(encoder|decoder)\.(down|up)(_blocks)?\.\d", "an autoencoder (VAE)"),
    (r"^(down_blocks|up_blocks|input_blocks|output_blocks|mid_block|middle_block)\.", "a bare UNet"),
    (r"^(text_model\.)?(encoder\.layers|embeddings)\.", "a text encoder"),
    (r"^(emb_params|string_to_param|clip_[lg]|<.+>)", "a textual inversion embedding"),
    (r"^(network|optimizer)\.", "the state of a run, for place.resume"),
    (r"\.oft_diag$", "an OFT of LyCORIS before 1.9"),
    (r"\.bm\.weight$", "a GLoRA with Tucker decomposition"),
    (
        r"\.lora_[AB]\.|\.lora\.(down|up)\.|lora_linear_layer\.",
        "a LoRA for another model, as diffusers spells it",
    ),
    (r"^lora_(unet_(double|single|joint)|transformer)_", "a LoRA for another model"),
    (
        r"^(lora|oft)_\w+\.(lora_(down|up)\.weight|hada_w1_a|lokr_w1(_a)?|on_input|oft_blocks|a1\.weight|diff"
        r"|w_norm|vera_b|tied_v|mora_(sharing|rotation))$",
        "a LoRA",
    ),
)
OURS = "a LoRA"


def save(  # noqa: PLR0913 (what a file is made of)
    network: Network,
    path: pathlib.Path,
    *,
    metadata: Mapping[str, str],
    dtype: torch.dtype,
    native: pathlib.Path | None = None,
    rank: int | None = None,
) -> None:
    """Write the network as sd-scripts does: keys, shapes, and hashes of what is written.

    Args:
        native: where its own tensors go if the stock WebUI reads none such; `path` then holds what it reads.
        rank: of a LoRA that `path` then holds at most; see `export.readable`.

    Raises:
        Mistake: the folder cannot be written to, or the disk is full; nothing is left then.
    """
    plain, more = readable(network, rank), missing(network.layers)
    if plain is None:
        _write({**entries(network), **more}, path, metadata, dtype)
        return
    if native is not None:
        _write(entries(network), native, metadata, dtype)
    _write({**plain.tensors, **more, **_word(network)}, path, plain.texts(metadata), dtype)


def save_word(word: Word, path: pathlib.Path, *, metadata: Mapping[str, str], dtype: torch.dtype) -> None:
    """Write a learned word alone, as a WebUI reads embeddings.

    Raises:
        Mistake: as `save`.
    """
    said = {key: text.replace("/lora", "/textual-inversion") for key, text in metadata.items()
            if key.startswith("modelspec.")}  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(word.alone(), path, {**said, "modelspec.title": word.name}, dtype)


def _write(
    found: Mapping[str, Tensor], path: pathlib.Path, metadata: Mapping[str, str], dtype: torch.dtype
) -> None:
    rows = {name: (tuple(tensor.shape), _kept(tensor, dtype)) for name, tensor in found.items()}
    write(path, rows, lambda name: found[name].to(rows[name][1]), metadata, hashed=True)


def _kept(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    """The file's dtype; an alpha that is no number of it stays as exact as it is."""
    return tensor.dtype if tensor.ndim == 0 and tensor.to(dtype) != tensor else dtype


def entries(network: Network) -> dict[str, Tensor]:
    """The network's tensors under the keys of a file, as they are."""
    found = {
        f"{file_key(layer.part, layer.path, layer.arch)}.{name}": tensor
        for key, layer in network.layers.items()
        for name, tensor in {**network.adapters[key].tensors(), **_before(network, key)}.items()
    }
    return {**found, **_word(network)}


def _before(network: Network, key: str) -> dict[str, Tensor]:
    """What it keeps of a layer's earlier adapters."""
    before = network.before(key)
    return {} if before is None else before.tensors()


def _word(network: Network) -> dict[str, Tensor]:
    """What it brings along of a learned word."""
    return {} if network.word is None else network.word.tensors()


def load(path: pathlib.Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a LoRA file, or of a folder of PEFT's, on the CPU as saved, under the keys that
    kohya's files have. A file that is something else is not read.

    Raises:
        Mistake: no LoRA that we know; the message says what it is.
    """
    if path.suffix.lower() in PICKLES and path.is_file():
        raise Mistake(f"{path}: expected a .safetensors file; opening a pickle can run code that is in it")
    file = opened(path)
    if (kind := told(file.names)) != OURS:
        known = ", ".join(arch.said for arch in ARCHS.values())
        raise Mistake(f"{path}: expected a LoRA for {known}; this is {kind}")
    tensors = dict(file.read(file.names))
    for name, tensor in tensors.items():
        if reason := fault(name, tensor):
            raise Mistake(f"{path}: {name} {reason}; the file is damaged, or its training was")
    return tensors, dict(file.metadata)


def fault(name: str, tensor: Tensor) -> str:
    """What no tensor of a LoRA is, as a clause; "" where it is sound."""
    if name.endswith(".alpha"):
        if tensor.numel() != 1:
            return f"is {tensor.numel()} numbers, not one"
    elif not tensor.is_floating_point() and not name.endswith(".on_input"):
        return "holds whole numbers, not fractions"
    elif tensor.ndim not in (2, 4) and name.endswith((".lora_up.weight", ".lora_down.weight")):
        return f"has {tensor.ndim} axes, not 2 or 4"
    return "" if tensor.float().isfinite().all() else "holds NaN or infinity"


def told(names: Iterable[str]) -> str:
    """What kind of file has these keys, with its article; `OURS` for one that we read."""
    names = list(names)
    for pattern, kind in KINDS:
        found = re.compile(pattern)
        if any(found.search(name) for name in names):
            return kind
    return f"a file with keys like {names[0]}" if names else "an empty file"


def begun(family: Family, layers: Iterable[Layer]) -> Network:
    """The network a run starts with: fresh, or holding what `family.weights` holds.

    Raises:
        Mistake: the file is no LoRA, or not one of this model or these settings.
    """
    layers = _checked(family, layers)
    if family.weights is None:
        return _shrinking(Network(family, layers, maker(family)))
    held, texts = load(family.weights)
    tensors = unfilled(layered(held))
    wanted = [layer for layer in layers if family.trains(layer.part)]
    kept = _of_parts(tensors, wanted, family.weights)
    if family.layer_map is None:
        _of_family(family, kept, family.weights, texts)
    if family.dim_from_weights:
        return _shrinking(network_of(kept, wanted, family, name=str(family.weights)))
    network = Network(family, wanted, maker(family))
    restore(network, kept, name=str(family.weights))
    return _shrinking(network)


def _shrinking(network: Network) -> Network:
    """Raises Mistake: there are adapters that cannot be made smaller, as is asked for. Settings say so before
    it, but for what a file holds."""
    family = network.family
    if family.scale_weight_norms is not None and not all(a.shrinks for a in network.adapters.values()):
        raise Mistake(
            f"network.scale_weight_norms = {family.scale_weight_norms:g}: {family.weights or 'layer_map'} "
            "holds a DoRA, or another kind that cannot be made smaller; leave it out"
        )
    return network


def _checked(family: Family, layers: Iterable[Layer]) -> list[Layer]:
    """The layers, and a line for what of the settings means something else on this model.

    Raises:
        Mistake: settings that this model has no layers for.
    """
    layers = list(layers)
    if complaints := family.strays(layers):
        raise Mistake("\n".join(f"network.{line}" for line in complaints))
    for line in family.remarks(_arch(layers)):
        log.info("network.%s", line)
    return layers


def _of_family(
    family: Family, tensors: Mapping[str, Tensor], path: pathlib.Path, texts: Mapping[str, str]
) -> None:
    """Raises Mistake: a file's adapters are of another family than the job's, or only made from such."""
    there, source = type(told_by(name.partition(".")[2] for name in tensors)), made_from(texts)
    own = source is not None and source == family.record()["ss_network_module"]
    mixed = family.mark != DIFF and any(name.endswith(f".{DIFF}") for name in tensors)
    if there.mark == family.mark and not (own and mixed):  # a LoRA, and what was too large to stay one
        return
    if own:
        raise Mistake(
            f"network.weights = {path}: was made from a {source} for the WebUI; take that itself, "
            f"{path.stem}.native.safetensors in the folder of that run's log"
        )
    kind = next(kind for kind, known in FAMILIES.items() if known is there)
    raise Mistake(f"network.weights = {path}: holds a {there.__name__}; set network.kind = {kind}")


def network_of(
    tensors: Mapping[str, Tensor],
    layers: Iterable[Layer],
    family: Family | None = None,
    *,
    name: str = "the file",
) -> Network:
    """A network of just the layers, ranks and alphas that a file has, holding its tensors.

    Args:
        layers: the model's, all of them.
        family: of the adapters; that which each layer's tensors tell if not given.
        name: of the file, for complaints.

    Raises:
        Mistake: the file is not of this model.
    """
    known = {layer.key: layer for layer in layers}
    found = _layered(tensors, known.values(), name)
    if lost := [key for key in found if key not in known]:
        raise Mistake(f"{name}: made for another model: {_some(lost, found)} not in this one")

    def make(layer: Layer) -> torch.nn.Module:
        try:
            return (family or told_by(found[layer.key])).hold(layer, parted(found[layer.key])[0])
        except ValueError as e:
            raise Mistake(f"{name}: made for another model, or damaged: {layer.key} {e}") from e

    network = Network(family or Lora(), [known[key] for key in found], make)
    for key, own in found.items():
        _keep(network, key, own, name)
    return network


def _keep(network: Network, key: str, tensors: Mapping[str, Tensor], name: str) -> None:
    """Take over what a file has of a layer's earlier adapters."""
    if kept := parted(tensors)[1]:
        try:
            network.keep(key).load(kept)
        except ValueError as e:
            raise Mistake(f"{name}: made for another model, or damaged: {key} {e}") from e


def told_by(tensors: Iterable[str]) -> Family:
    """The family whose layer has these tensors; plain LoRA where none is known by them."""
    starts = {name.partition("_")[0] for name in tensors}
    return next((kind() for kind in FAMILIES.values() if kind.mark in starts), Lora())


def restore(network: Network, tensors: Mapping[str, Tensor], *, name: str = "the file") -> None:
    """Put a file's tensors into a network made with its settings. Layers that it has not stay as they are.

    Raises:
        Mistake: it has layers the network has not, or another dim; nothing is lost silently.
    """
    found = _layered(tensors, network.layers.values(), name)
    if lost := [key for key in found if key not in network.adapters]:
        raise Mistake(
            f"{name}: {_some(lost, found)} not in this network; "
            "set network.dim_from_weights, or network.conv_dim and the like as they were"
        )
    for key, own in found.items():
        try:
            network.adapters[key].load(parted(own)[0])
        except ValueError as e:
            raise Mistake(
                f"{name}: {key} {e}; set network.dim_from_weights, or network.dim and the like as they were"
            ) from e
        _keep(network, key, own, name)
    if fresh := len(network.adapters) - len(found):
        log.info("%s: %d of %d layers are not in it and start afresh", name, fresh, len(network.adapters))


def _arch(layers: Iterable[Layer]) -> str:
    """Which architecture they are of."""
    return next((layer.arch for layer in layers), "sd1")


def _layered(
    tensors: Mapping[str, Tensor], layers: Collection[Layer], name: str
) -> dict[str, dict[str, Tensor]]:
    """{key of a layer: {name within it: tensor}}, in the file's order; see `_idle`.

    Args:
        layers: of the model; those that there are adapters for.
    """
    found: dict[str, dict[str, Tensor]] = {}
    foreign, arch = [], _arch(layers)
    for key, tensor in unfilled(layered(tensors)).items():
        module, _, own = key.partition(".")
        place = path_of(module, arch)
        if place is None:
            foreign.append(key)
        else:
            found.setdefault(".".join(place), {})[own] = tensor
    if foreign:
        said = ARCHS[arch].said
        raise Mistake(f"{name}: not made for {said}: {_some(foreign, tensors)} of none of its layers")
    if idle := _idle(found, layers, arch):
        log.info("%s: %s for a layer that no caption comes through, and left out", name, _some(idle, found))
    return {key: own for key, own in found.items() if key not in idle}


def _idle(found: Iterable[str], layers: Iterable[Layer], arch: str) -> list[str]:
    """Those of the layer behind the last of a text encoder that its conds come through. SD 2.x and SDXL read
    the last but one, and sd-scripts' files have SDXL's te1 whole, with what never learned."""
    place = re.compile(r"(te\d)\.encoder\.layers\.(\d+)\.")
    deepest: dict[str, int] = {}
    for there in filter(None, (place.match(layer.key) for layer in layers)):
        deepest[there[1]] = max(int(there[2]), deepest.get(there[1], 0))
    if arch == "sd1":
        return []
    return [k for k in found if (m := place.match(k)) and int(m[2]) - 1 == deepest.get(m[1])]


def _of_parts(
    tensors: Mapping[str, Tensor], layers: Sequence[Layer], path: pathlib.Path
) -> dict[str, Tensor]:
    """Without what is of a part that is not trained: one of which there are no layers."""
    parts, arch = {layer.part for layer in layers}, _arch(layers)
    places = {key: path_of(key.partition(".")[0], arch) for key in tensors}
    kept = {key: tensor for key, tensor in tensors.items() if not places[key] or places[key][0] in parts}
    if len(kept) < len(tensors):
        log.warning("%s: what it has of the part that is not trained is left out of what is saved", path)
    return kept


def _some(few: Sequence[str], every: Collection[str]) -> str:
    return f"{len(few)} of {len(every)} entries ({few[0]}{', …' * (len(few) > 1)}) are"
