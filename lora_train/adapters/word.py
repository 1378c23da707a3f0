"""Word: a word of captions that text encoders read as learned vectors (textual inversion)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.values import shown

BUNDLED = "bundle_emb"  # what keys of embeddings in a LoRA file begin with
WHOLE = ("string_to_param.*", "emb_params")  # names of a single text encoder's vectors; the first is written
PARTS = {"te1": "clip_l", "te2": "clip_g"}  # of two text encoders
USUAL = 5e-4  # learning rate
UNFIT = '.()[]{}<>:|\\/,"\n\r\t'  # a dot ends the name in a key, and others are read as something else


@dataclasses.dataclass(frozen=True)
class Embedding:
    """A word that is learned together with the adapters: Gal et al. 2022, arXiv:2208.01618; with LoRA it is
    known as pivotal tuning."""

    token_string: str | None = knob(
        None, "Word whose meaning is learned along with the adapters, as vectors that the text encoders read "
        "in its place; the saved file brings them along. Captions have to hold it, as with "
        "data.trigger_word. Empty: none.", group="embedding")  # fmt: skip
    num_vectors_per_token: int = knob(
        1, "Vectors that stand for the word; each takes the place of a token.", group="embedding", low=1,
        high=75)  # fmt: skip
    init_word: str | None = knob(
        None, "Words whose vectors the learned ones begin with, such as the class: dog. Too few are "
        "repeated, too many left out. Empty: what the text encoders read in the word itself.",
        group="embedding")  # fmt: skip
    embedding_learning_rate: float | None = knob(
        None, "Learning rate of the word's vectors. Empty: 5e-4, or where an optimizer takes one rate for "
        "all parameters, that one.", group="embedding", low=0, high=100)  # fmt: skip
    train_text_encoder_ti_frac: float = knob(
        1.0, "Share of the run's steps in which the word learns; then it stays as it is, and the adapters go "
        "on.", group="embedding", low=0, high=1)  # fmt: skip
    preserve_embedding_norm: bool = knob(
        False, "Keep each vector at the length that it begins with, and learn its direction alone.",
        group="embedding")  # fmt: skip

    def check(self) -> Iterable[str]:
        word = self.token_string
        if word is None:
            return
        bad = [letter for letter in dict.fromkeys(word) if letter in UNFIT]
        if bad or not word.strip() or word != word.strip():
            lost = " ".join(map(shown, bad)) or "the blanks around it"
            yield f"token_string = {shown(word)}: expected a word; leave out {lost}"
        for name in ("embedding_learning_rate", "train_text_encoder_ti_frac"):
            if vars(self)[name] == 0:
                yield f"{name} = 0: expected more than 0; to learn no word, leave token_string out"

    def rate(self, common: float | None = None) -> float:
        """common: the one rate that an optimizer takes for all parameters, where it does."""
        own = self.embedding_learning_rate
        return USUAL if (found := common if own is None else own) is None else found


class Word(nn.Module):
    """The vectors of one word, for each text encoder; float32.

    Args:
        vectors: part -> [n, D] that they begin with.
    """

    def __init__(self, settings: Embedding, vectors: Mapping[str, Tensor]):
        super().__init__()
        self.settings, self.name = settings, settings.token_string or ""
        self.vectors = nn.ParameterDict(
            {part: nn.Parameter(v.float().clone()) for part, v in vectors.items()}
        )
        for part, v in vectors.items():  # in the state, for a run that goes on has other vectors
            self.register_buffer(f"length_{part}", v.float().norm(dim=1, keepdim=True))

    def live(self) -> dict[str, Tensor]:
        """What is read, {part: [n, D]}; with gradients."""
        found = dict(self.vectors.items())
        if not self.settings.preserve_embedding_norm:
            return found
        lengths = dict(self.named_buffers())
        return {
            part: v / v.norm(dim=1, keepdim=True) * lengths[f"length_{part}"] for part, v in found.items()
        }

    def group(self, common: float | None = None) -> dict[str, object]:
        """Of parameters, for an optimizer; see `Embedding.rate`. `share`: of the steps, with learning."""
        rate, share = self.settings.rate(common), self.settings.train_text_encoder_ti_frac
        own = [*self.vectors.values()]
        return {"params": own, "name": "embedding", "lr": rate, "base_lr": rate, "share": share}

    def alone(self) -> dict[str, Tensor]:
        """As a file of its own has it, which goes into a WebUI's folder `embeddings`."""
        named = filed(self.live())
        return {WHOLE[1] if name in WHOLE else name: v for name, v in named.items()}

    def tensors(self) -> dict[str, Tensor]:
        """As a LoRA file has it, under whole keys."""
        return {f"{BUNDLED}.{self.name}.{name}": v for name, v in filed(self.live()).items()}


def filed(vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """{part: vectors} under the names that the WebUI gives them."""
    named = {PARTS[part]: v.detach() for part, v in vectors.items()}
    return named if len(named) > 1 else {WHOLE[0]: next(iter(named.values()))}


def bundled(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The embeddings that a LoRA file brings along: {word: {part: [n, D]}}.

    Raises:
        Mistake: keys that are none of an embedding.
    """
    found: dict[str, dict[str, Tensor]] = {}
    parts = {name: part for part, name in PARTS.items()} | dict.fromkeys(WHOLE, "te1")
    for key, tensor in tensors.items():
        lead, _, rest = key.partition(".")
        if lead != BUNDLED:
            continue
        word, _, name = rest.partition(".")
        if name.startswith("string_to_param."):  # of the one encoder, whatever stands behind it
            name = WHOLE[0]
        if name not in parts:
            raise Mistake(
                f"{key}: expected an embedding, its vectors under {', '.join([*PARTS.values(), WHOLE[0]])}"
            )
        found.setdefault(word, {})[parts[name]] = tensor if tensor.ndim > 1 else tensor[None]
    return found


def layered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the embeddings: what is of layers."""
    return {key: tensor for key, tensor in tensors.items() if not key.startswith(f"{BUNDLED}.")}


def begun(settings: Embedding, read: Mapping[str, Tensor]) -> Word:
    """A word that begins with what is read in other words.

    Args:
        read: part -> [T, D], of the tokens of `init_word`, or of the word itself.

    Raises:
        Mistake: there are no tokens.
    """
    n = settings.num_vectors_per_token
    if not all(map(len, read.values())):
        name = "init_word" if settings.init_word else "token_string"
        raise Mistake(f"embedding.{name}: expected a word that text encoders read something in")
    rows = {part: [i % len(v) for i in range(n)] for part, v in read.items()}
    return Word(settings, {part: v[rows[part]] for part, v in read.items()})


def continued(
    settings: Embedding, vectors: Mapping[str, Tensor], wanted: Mapping[str, int], name: str
) -> Word:
    """A word that goes on from a file.

    Args:
        vectors: of the file, part -> [n, D].
        wanted: part -> D, of the model.
        name: of the file.

    Raises:
        Mistake: they are of another model.
    """
    there = {part: v.shape[1] for part, v in vectors.items()}
    if there != dict(wanted):
        raise Mistake(f"{name}: its embedding {settings.token_string} is of another model's text encoders")
    return Word(settings, vectors)
