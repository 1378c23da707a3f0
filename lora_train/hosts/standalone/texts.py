"""What a model's text encoders make of captions and prompts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from lora_train.host import Cond, Model
from lora_train.hosts.standalone.slot import Slot
from lora_train.hosts.standalone.tokens import Chunk, Tokens
from lora_train.transfer import sent

Vectors = Callable[[], Mapping[str, Tensor]]  # part -> [n, D]
OPEN_CLIP = ("sd2 te1", "sdxl te2")  # which fill chunks up with the token 0, "!"


class Texts:
    """One text encoder of SD 1.x and SD 2.x, two of SDXL.

    Args:
        slots: part -> its slot, of all text encoders.
        autocast: makes a context in which they run.
    """

    def __init__(
        self,
        slots: Mapping[str, Slot],
        arch: str,
        model: Model,
        device: torch.device,
        autocast: Callable[[], contextlib.AbstractContextManager],
    ):
        self.slots, self.arch, self.model = slots, arch, model
        self.device, self.autocast = device, autocast
        self.words = Tokens(weighted=model.weighted_captions)
        self.learned: dict[str, Vectors] = {}  # word -> what is read in its place

    def encode(self, captions: Sequence[str], *, weighted: bool | None = None) -> Cond:
        """[B, max_token_length + 2, D], as sd-scripts: every 75 tokens go through a text encoder with a start
        and an end of their own, of which the first start and the last end are kept; weights multiply what
        comes of their tokens, and nothing else."""
        rows = [self.words.caption(text, self.model.max_token_length, weighted=weighted) for text in captions]
        weights, made, vector = self._through(rows)
        contexts = []
        for hidden in made:
            inner = (hidden[:, :, 1:-1] * weights[:, :, 1:-1].to(hidden)).flatten(1, 2)
            contexts.append(torch.cat([hidden[:, 0, :1], inner, hidden[:, -1, -1:]], 1))
        return Cond(torch.cat(contexts, 2), vector)

    def prompts(self, *prompts: str) -> Cond:
        """[B, 77 * chunks, D], as the WebUI: with emphasis, after which a chunk has the mean it had before
        (its "Original" way), and in as many chunks as the longest needs."""
        weights, made, vector = self._through(self.words.prompts(*prompts))
        contexts = []
        for hidden in made:
            stressed = hidden * weights.to(hidden)
            before, after = (x.float().mean((2, 3), keepdim=True) for x in (hidden, stressed))
            ratio = torch.where((weights == 1).all(2, keepdim=True), 1.0, before / after)
            contexts.append((stressed * ratio.to(stressed)).flatten(1, 2))
        return Cond(torch.cat(contexts, 2), vector)

    def _through(self, rows: Sequence[Sequence[Chunk]]) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Their weights, [B, chunks, 77, 1]; what each text encoder makes of them, [B, chunks, 77, D]; and
        SDXL's vector of the first chunk, [B, V]."""
        start, end = self.words.start, self.words.end
        ids = torch.tensor([[[start, *chunk.ids, end] for chunk in row] for row in rows])
        weights = torch.tensor([[[1.0, *chunk.weights, 1.0] for chunk in row] for row in rows])
        made, vector = [], None
        for part, slot in self.slots.items():
            read = behind(ids, end, 0) if f"{self.arch} {part}" in OPEN_CLIP else ids
            text, read = slot.use(), sent(read.flatten(0, 1), self.device)
            with self.autocast(), self._read(text, part, read):
                hidden, pooled = self._hidden(text, part, read.clamp(min=0))
            made.append(hidden.unflatten(0, ids.shape[:2]))
            if pooled is not None:
                vector = pooled.unflatten(0, ids.shape[:2])[:, 0]
        return sent(weights[..., None], self.device), made, vector

    def vectors(self, text: str) -> dict[str, Tensor]:
        """See `lora_train.host.Lent`."""
        ids = torch.tensor(self.words.ids(text), dtype=torch.long)
        tables = {part: table(slot.use()).weight for part, slot in self.slots.items()}
        return {part: weight.detach()[ids.to(weight.device)].float() for part, weight in tables.items()}

    @contextlib.contextmanager
    def spoken(self, word: str, vectors: Vectors | None) -> Iterator[None]:
        """See `lora_train.host.Lent`."""
        before = dict(self.learned)
        self.learned.pop(word, None)
        if vectors is not None:
            self.learned[word] = vectors
        try:
            yield self._counted()
        finally:
            self.learned = before
            self._counted()

    def _counted(self) -> None:
        self.words.learned = {word: len(next(iter(made().values()))) for word, made in self.learned.items()}

    def _read(self, text: nn.Module, part: str, ids: Tensor) -> contextlib.AbstractContextManager:
        """With the vectors of learned words, which negative ids stand for, where its table is asked."""
        if not self.learned:
            return contextlib.nullcontext()
        vectors = torch.cat([made()[part] for made in self.learned.values()])

        def put(_module: nn.Module, _ids: object, out: Tensor) -> Tensor:
            found = vectors.to(out)[(-1 - ids).clamp(min=0)]
            return torch.where((ids < 0)[..., None], found, out)

        return hooked(table(text), put)

    def _hidden(self, text: nn.Module, part: str, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """SDXL was made with the states before the last layer, which its first text encoder is built without;
        so is SD 2.x', with the last norm behind them."""
        if self.arch == "sdxl":
            out = text(ids, output_hidden_states=True)
            return out.hidden_states[-1 if part == "te1" else -2], getattr(out, "text_embeds", None)
        skip = self.model.clip_skip or 1
        out = text(ids, output_hidden_states=skip > 1)
        if skip > 1:
            return trunk(text).final_layer_norm(out.hidden_states[-skip]), None
        return out.last_hidden_state, None


def behind(ids: Tensor, end: int, filler: int) -> Tensor:
    """Another token in place of all behind the first end. ids: [..., L]"""
    ends = ids == end
    return ids.masked_fill(ends.cumsum(-1) > ends.long(), filler)


def trunk(text: nn.Module) -> nn.Module:
    """The text model itself: transformers 4 wraps it once more than 5 does, and a projection wraps it too."""
    return getattr(text, "text_model", text)


def table(text: nn.Module) -> nn.Module:
    """Of its tokens' vectors."""
    return trunk(text).embeddings.token_embedding


@contextlib.contextmanager
def hooked(module: nn.Module, put: Callable[..., Tensor]) -> Iterator[None]:
    handle = module.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()
