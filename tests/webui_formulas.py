"""What the stock WebUI (1.10) makes of a LoRA file: which layer a key is for, and what its weight gains.

An independent reading in plain torch: nothing of the package is imported. Names are those of the WebUI's
layers, such as "diffusion_model_input_blocks_4_1_proj_in".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]
PIECES = ("q_proj", "k_proj", "v_proj", "out_proj")  # of a text encoder's attention
RESNETS = {
    "conv1": "in_layers_2", "conv2": "out_layers_3", "norm1": "in_layers_0", "norm2": "out_layers_0",
    "time_emb_proj": "emb_layers_1", "conv_shortcut": "skip_connection",
}  # fmt: skip
FORMULAS = {}  # in the order in which the WebUI looks for them -> tensors that all have to be there


def added(file: Tensors, arch: str, weights: Tensors) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Layer -> what its weight gains, and its bias (None: nothing), at strength 1.

    Args:
        arch: of the model: "sd1", "sd2" or "sdxl".
        weights: of all layers that the model has. OpenCLIP's attention, one layer there, is in them as four:
            its name with "_q_proj", "_k_proj", "_v_proj", "_out_proj".
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in file.items():
        module, _, name = key.partition(".")
        layers.setdefault(layer_name(module, arch), {})[name] = tensor
    found = {name: delta(own, weights[name]) for name, own in layers.items() if name in weights}
    return _whole(found)


def _whole(found: dict[str, tuple[Tensor, Tensor | None]]) -> dict[str, tuple[Tensor, Tensor | None]]:
    """OpenCLIP's attention is changed only where all four of its parts are; of biases only the way out's."""
    kept = {}
    for name, (weight, bias) in found.items():
        match = re.fullmatch(r"(.*resblocks_\d+_attn)_(\w+)", name)
        if match and not all(f"{match[1]}_{piece}" in found for piece in PIECES):
            continue
        kept[name] = weight, None if match and match[2] != "out_proj" else bias
    return kept


def layer_name(key: str, arch: str) -> str:
    """A file's key without its tensor -> what the WebUI calls the layer."""
    unet = _unet_name(key)
    if unet is not None:
        return f"diffusion_model_{unet}"
    match = re.match(r"lora_te([12]?)_text_model_(encoder_layers_(\d+)_(.+))", key)
    if not match:
        return re.sub("^(lora|oft)_unet", "diffusion_model", key)
    which, path, number, rest = match.groups()
    if (which == "" and arch == "sd2") or which == "2":
        for ours, theirs in (("mlp_fc1", "mlp_c_fc"), ("mlp_fc2", "mlp_c_proj"), ("self_attn", "attn")):
            if ours in rest:
                rest = rest.replace(ours, theirs)
                break
        return f"{'1_' if which else ''}model_transformer_resblocks_{number}_{rest}"
    return f"{'0_' if arch == 'sdxl' else ''}transformer_text_model_{path}"


def _unet_name(key: str) -> str | None:
    """Of a UNet's layer that is spelled as diffusers does."""
    ends = {"conv_in": "input_blocks_0_0", "conv_out": "out_2"}
    if match := re.match(r"lora_unet_(conv_in|conv_out)(.*)", key):
        return ends[match[1]] + match[2]
    if match := re.match(r"lora_unet_time_embedding_linear_(\d+)(.*)", key):
        return f"time_embed_{int(match[1]) * 2 - 2}{match[2]}"
    if match := re.match(r"lora_unet_(down|up)_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)", key):
        way, block, kind, j, rest = match.groups()
        attends = kind == "attentions"
        number, ours = 3 * int(block) + int(j), rest if attends else RESNETS.get(rest, rest)
        place = f"input_blocks_{number + 1}" if way == "down" else f"output_blocks_{number}"
        return f"{place}_{1 if attends else 0}_{ours}"
    if match := re.match(r"lora_unet_mid_block_(attentions|resnets)_(\d+)_(.+)", key):
        if match[1] == "attentions":
            return f"middle_block_1_{match[3]}"
        return f"middle_block_{2 * int(match[2])}_{RESNETS.get(match[3], match[3])}"
    if match := re.match(r"lora_unet_down_blocks_(\d+)_downsamplers_0_conv", key):
        return f"input_blocks_{3 * int(match[1]) + 3}_0_op"
    if match := re.match(r"lora_unet_up_blocks_(\d+)_upsamplers_0_conv", key):
        return f"output_blocks_{3 * int(match[1]) + 2}_{2 if int(match[1]) else 1}_conv"
    return None


def delta(tensors: Tensors, weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """What a layer's weight gains from a file's tensors of this layer, and its bias; by the first of the
    kinds that has all it needs.

    Raises:
        ValueError: of no kind that the WebUI knows; it then loads nothing of the whole file.
    """
    for formula, needs in FORMULAS.items():
        if any(need <= tensors.keys() for need in needs):
            made, rank = formula(tensors, weight)
            made = made * _scale(formula, tensors, rank)
            if "bias" in tensors:
                raise NotImplementedError("a LyCORIS delta beside the factors")
            made = made.reshape(weight.shape)
            if "dora_scale" in tensors:
                made = _decomposed(made, weight, tensors["dora_scale"])
            extra = {_full: "diff_b", _norm: "b_norm"}.get(formula)
            return made, tensors.get(extra) if extra else None
    raise ValueError(f"has {', '.join(sorted(tensors))}")


def _scale(formula: object, tensors: Tensors, rank: int | None) -> float:
    """Rank None: of kinds whose alpha, if they have one, is no scale."""
    if formula is _oft:
        return 1.0
    if "scale" in tensors:
        return tensors["scale"].item()
    return tensors["alpha"].item() / rank if rank and "alpha" in tensors else 1.0


def _decomposed(made: Tensor, weight: Tensor, magnitude: Tensor) -> Tensor:
    """DoRA: the norm is taken of each input's column, whatever the magnitude's shape is."""
    merged = weight + made
    norms = merged.square().sum([axis for axis in range(merged.ndim) if axis != 1], keepdim=True).sqrt()
    return merged * (magnitude / norms) - weight


def _lora(tensors: Tensors, weight: Tensor) -> tuple[Tensor, int]:
    down, up, mid = (tensors.get(f"lora_{name}.weight") for name in ("down", "up", "mid"))
    down, up, rank = down.flatten(1), up.flatten(1), len(down)
    if mid is not None:  # Tucker decomposition
        return torch.einsum("nmkl,in,mj->ijkl", mid, up, down), rank
    return up @ down, rank


def _hada(tensors: Tensors, weight: Tensor) -> tuple[Tensor, int]:
    a1, b1, a2, b2 = (tensors[f"hada_w{n}_{side}"] for n in "12" for side in "ab")
    if "hada_t1" in tensors:
        first, second = (
            torch.einsum("ijkl,jr,ip->prkl", tensors[f"hada_t{n}"], b, a)
            for n, a, b in ((1, a1, b1), (2, a2, b2))
        )
        return first * second, len(b1)
    return (a1 @ b1) * (a2 @ b2), len(b1)


def _ia3(tensors: Tensors, weight: Tensor) -> tuple[Tensor, None]:
    """Of a convolution's outputs it is not what was trained; the WebUI's own shapes come out."""
    w = tensors["weight"]
    return weight * (w if tensors["on_input"].item() else w.reshape(-1, 1)), None


def _lokr(tensors: Tensors, weight: Tensor) -> tuple[Tensor, int | None]:
    rank = None
    for name in ("lokr_w1_b", "lokr_w2_b"):  # of the two the second counts
        rank = len(tensors[name]) if name in tensors else rank
    small = tensors["lokr_w1"] if "lokr_w1" in tensors else tensors["lokr_w1_a"] @ tensors["lokr_w1_b"]
    if "lokr_w2" in tensors:
        large = tensors["lokr_w2"]
    elif "lokr_t2" in tensors:
        large = torch.einsum(
            "ijkl,jr,ip->prkl", tensors["lokr_t2"], tensors["lokr_w2_b"], tensors["lokr_w2_a"]
        )
    else:
        large = tensors["lokr_w2_a"] @ tensors["lokr_w2_b"]
    small = small.reshape(*small.shape, *[1] * (large.ndim - 2))
    return torch.kron(small, large.contiguous()), rank


def _full(tensors: Tensors, weight: Tensor) -> tuple[Tensor, None]:
    return tensors["diff"], None


def _norm(tensors: Tensors, weight: Tensor) -> tuple[Tensor, None]:
    return tensors["w_norm"], None


def _glora(tensors: Tensors, weight: Tensor) -> tuple[Tensor, None]:
    """The old layout, of linear layers alone."""
    a1, a2, b1, b2 = (tensors[f"{name}.weight"] for name in ("a1", "a2", "b1", "b2"))
    return b2 @ b1 + (weight @ a2) @ a1, None


def _oft(tensors: Tensors, weight: Tensor) -> tuple[Tensor, None]:
    """Outputs turned within blocks; in BOFT again and again, in blocks of ever farther neighbours."""
    if "oft_blocks" in tensors:
        blocks = tensors["oft_blocks"]
        skew = blocks - blocks.transpose(-1, -2)
        most = tensors["alpha"].item() * len(weight) if "alpha" in tensors else 0.0
        if most:
            norm = skew.flatten().norm()
            skew = skew * ((norm.clamp(max=most) + 1e-8) / (norm + 1e-8))
        one = torch.eye(skew.shape[-1]).to(skew)
        turns = (one + skew) @ (one - skew).inverse()
    else:
        turns = tensors["oft_diag"]
    if turns.ndim == 3:
        parts = weight.reshape(*turns.shape[:2], -1)
        turned = (turns.transpose(1, 2) @ parts).reshape(weight.shape)
    else:
        turned, side = weight.flatten(1), turns.shape[-1]
        for i, turn in enumerate(turns):
            far = 2**i * (side // 2)
            order = torch.arange(len(turned)).reshape(-1, 2, far).transpose(1, 2).reshape(-1)
            parts = turn @ turned[order].reshape(-1, side, turned.shape[1])
            turned = torch.empty_like(turned).index_copy(0, order, parts.reshape(turned.shape))
        turned = turned.reshape(weight.shape)
    if "rescale" in tensors:
        turned = tensors["rescale"].reshape(-1, *[1] * (weight.ndim - 1)) * turned
    return turned - weight, None


FORMULAS.update(
    {
        _lora: [{"lora_up.weight", "lora_down.weight"}],
        _hada: [{"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}],
        _ia3: [{"weight"}],
        _lokr: [
            {*first, *second}
            for first in (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b"))
            for second in (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))
        ],
        _full: [{"diff"}],
        _norm: [{"w_norm", "b_norm"}],
        _glora: [{"a1.weight", "a2.weight", "alpha", "b1.weight", "b2.weight"}],
        _oft: [{"oft_blocks"}, {"oft_diag"}],
    }
)
