"""Which tokens a LoRA moves: what the text encoder makes of each alone, with the file on and without.

The idea is that of sd-scripts' lora_interrogator: what a LoRA was trained on shows in the words that it moves
most. A token stands behind the start alone, where it sees nothing else, so its own output is all that has to
be computed; of a file without a part for text encoders it is what the cross-attentions read of the token.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lora_train.errors import Mistake
from lora_train.models.files import LAYER
from lora_train.tools.base import Base
from lora_train.tools.opened import Opened
from lora_train.tools.tool import Told, unheard

VOCABULARY = pathlib.Path(__file__).parents[1] / "hosts" / "standalone" / "clip" / "vocab.json"
START = 49406
CHUNK = 4096  # tokens that are computed at once
NAMES = (  # of what a layer consists of
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2",
    "layer_norm1", "layer_norm2",
)  # fmt: skip
READS = (".attn2.to_k", ".attn2.to_v")


@dataclasses.dataclass(frozen=True)
class Moved:
    """A token, and by how much of its length its output moves."""

    text: str
    share: float


@torch.no_grad()
def moved(  # noqa: PLR0913 (what is asked, of what, and where)
    file: Opened,
    base: Base,
    most: int,
    device: str = "cpu",
    told: Told = unheard,
    words: Mapping[int, str] | None = None,
) -> dict[str, list[Moved]]:
    """The tokens that move most: text encoder -> tokens; "captions" where it is what is read of captions.

    Args:
        words: the tokens that are looked at, number -> text. None: the whole vocabulary.

    Raises:
        Mistake: the file has nothing that words come through, or is made for another model.
    """
    if file.arch != base.arch:
        raise Mistake(f"{file.path}: made for another model than {base.path}")
    parts = [part for part in base.found.parts if part.startswith("te")]
    own = [part for part in parts if any(held.part == part for held in file.layers.values())]
    read = [key for key in file.layers if key.endswith(READS)]
    if not own and not read:
        raise Mistake(
            f"{file.path}: has nothing that words come through, so it moves no token; leave out tokens"
        )
    words = vocabulary() if words is None else words
    ids = torch.tensor(sorted(words), device=device)
    texts = [words[number].replace("</w>", " ") for number in sorted(words)]
    if own:
        return {part: _first(_shares(*_encoded(part, base, file, ids, told)), texts, most) for part in own}
    seen = torch.cat([_encoded(part, base, None, ids, told)[0] for part in parts], 1)
    gains = torch.zeros(len(seen), device=device)
    for key in read:
        change = file.change(key, base, device)
        made = seen @ change.thin[1].T @ change.thin[0].T if change.thin else seen @ change.matrix().T
        gains += made.square().sum(1)
    return {"captions": _first(gains.sqrt() / seen.norm(dim=1), texts, most)}


def vocabulary() -> dict[int, str]:
    """CLIP's tokens but for start and end."""
    names = json.loads(VOCABULARY.read_text(encoding="utf-8"))
    return {number: text for text, number in names.items() if number < START}


def _shares(before: Tensor, after: Tensor) -> Tensor:
    return (after - before).norm(dim=1) / before.norm(dim=1)


def _first(shares: Tensor, texts: Sequence[str], most: int) -> list[Moved]:
    order = shares.argsort(descending=True)[:most].tolist()
    return [Moved(texts[i], float(shares[i])) for i in order]


def _weights(base: Base, file: Opened | None, key: str, device: str) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer, as they are or with what a file adds."""
    weight, bias = base.weight(key).to(device), base.bias(key)
    bias = None if bias is None else bias.to(device)
    if file is not None and key in file.layers:
        change = file.change(key, base, device)
        weight = weight + change.matrix().reshape(weight.shape)
        if change.bias is not None:
            bias = change.bias.to(weight) + (0 if bias is None else bias)
    return weight, bias


def _encoded(part: str, base: Base, file: Opened | None, ids: Tensor, told: Told) -> tuple[Tensor, Tensor]:
    """What comes of each token, [T, D]: without the file and with it."""
    device = str(ids.device)
    table = base.weight(f"{part}.embeddings.token_embedding").to(device)
    places = base.weight(f"{part}.embeddings.position_embedding").to(device)
    count = base.found.parts[part].count(LAYER)
    facts, second = base.found.facts, part == "te2"
    heads = (facts.second_heads if second else facts.text_heads) or max(1, table.shape[1] // 64)
    sharp = (facts.second_activation if second else facts.text_activation) == "quick_gelu"
    streams = []
    for number, on in enumerate((None, file) if file is not None else (None,)):
        start, tokens = table[START : START + 1] + places[0], table[ids] + places[1]
        for i in range(count):
            at = f"{part}.encoder.layers.{i}"
            layer = _Layer({n: _weights(base, on, f"{at}.{n}", device) for n in NAMES}, heads, sharp)
            keys = layer.seen(start)
            for rows in _chunks(len(tokens)):
                tokens[rows] = layer(tokens[rows], keys)
            start = layer(start, None)
            told(number * count + i + 1, 2 * count)
        if base.arch != "sdxl":
            weight, bias = _weights(base, on, f"{part}.final_layer_norm", device)
            tokens = F.layer_norm(tokens, weight.shape, weight, bias)
        streams.append(tokens)
    return streams[0], streams[-1]


def _chunks(count: int) -> Iterator[slice]:
    for begin in range(0, count, CHUNK):
        yield slice(begin, begin + CHUNK)


class _Layer:
    """One of CLIP's, for a token that sees the start and itself."""

    def __init__(self, pairs: Mapping[str, tuple[Tensor, Tensor | None]], heads: int, sharp: bool):
        self.pairs, self.heads, self.sharp = pairs, heads, sharp

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, *self.pairs[name])

    def norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.pairs[name]
        return F.layer_norm(x, weight.shape, weight, bias)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))  # [B, heads, D / heads]

    def seen(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """What every token sees of the start: its key and value."""
        n = self.norm("layer_norm1", start)
        return self.split(self.linear("self_attn.k_proj", n)), self.split(self.linear("self_attn.v_proj", n))

    def __call__(self, x: Tensor, before: tuple[Tensor, Tensor] | None) -> Tensor:
        """x: [B, D], each behind the start; before: what they see of it, None: x is the start."""
        n = self.norm("layer_norm1", x)
        q, k, v = (self.split(self.linear(f"self_attn.{name}_proj", n)) for name in "qkv")
        if before is not None:
            keys, values = (torch.stack([a.expand_as(b), b], 1) for a, b in zip(before, (k, v), strict=True))
            weights = torch.einsum("bhd,bshd->bhs", q, keys) / q.shape[-1] ** 0.5
            v = torch.einsum("bhs,bshd->bhd", weights.softmax(-1), values)
        x = x + self.linear("self_attn.out_proj", v.flatten(1))
        h = self.linear("mlp.fc1", self.norm("layer_norm2", x))
        return x + self.linear("mlp.fc2", h * torch.sigmoid(1.702 * h) if self.sharp else F.gelu(h))
