"""Captioners of transformers: BLIP, BLIP-2, GIT, and others that continue a text beside a picture."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Sequence

import torch
from PIL import Image

from lora_train.errors import Mistake
from lora_train.workshop.work import needed


@dataclasses.dataclass(frozen=True)
class Captioner:
    """One of them.

    Args:
        name: a folder, or what the hub calls it.
        prompt: words that captions begin with; they are not written.
    """

    name: str
    prompt: str = ""
    beams: int = 3
    shortest: int = 5  # tokens
    longest: int = 75
    download: bool = False
    device: str = "auto"
    batch: int = 4

    @property
    def id(self) -> str:
        file = pathlib.Path(self.name, "config.json")
        when = file.stat().st_mtime_ns if file.is_file() else 0
        return str((self.name, when, self.prompt, self.beams, self.shortest, self.longest))

    @functools.cached_property
    def parts(self) -> tuple[object, torch.nn.Module]:
        """(what prepares pictures and reads tokens, the model).

        Raises:
            Mistake: no transformers, no such model, or one that says nothing of pictures.
        """
        try:
            import transformers
        except ImportError:
            raise needed("transformers", "transformers", "a captioner") from None
        if self.device == "cuda" and not torch.cuda.is_available():
            raise Mistake("device = cuda: torch finds no such device here; take cpu")
        card = self.device != "cpu" and torch.cuda.is_available()
        here = {"local_files_only": not self.download}
        try:
            kind = (transformers.AutoConfig.from_pretrained(self.name, **here).architectures or ["none"])[0]
            made = transformers.__dict__.get(kind) or getattr(transformers, kind, None)
            if not hasattr(made, "generate"):
                raise Mistake(f"captioner = {self.name}: {kind} writes no captions; take one such as BLIP")
            reader = transformers.AutoProcessor.from_pretrained(self.name, **here)
            kept = torch.float16 if card else torch.float32
            net = made.from_pretrained(self.name, torch_dtype=kept, **here)
        except Mistake:
            raise
        except Exception as e:  # files that are cut off or changed raise what the packages below have
            why = (str(e).strip() or repr(e)).splitlines()[0]
            raise Mistake(
                f"captioner = {self.name}: cannot be loaded ({why}); set download to get it from Hugging "
                "Face, or name a folder with all its files") from e  # fmt: skip
        return reader, net.eval().requires_grad_(False).to("cuda" if card else "cpu")

    def ready(self) -> None:
        self.parts  # noqa: B018 (it is loaded)

    def prepared(self, image: Image.Image) -> Image.Image:
        return image

    @torch.inference_mode()
    def asked(self, batch: Sequence[Image.Image]) -> list[bytes]:
        """Raises Mistake: the card's memory does not hold so many."""
        reader, net = self.parts
        text = {"text": [self.prompt] * len(batch)} if self.prompt else {}
        given = reader(images=[*batch], return_tensors="pt", **text).to(net.device)
        given["pixel_values"] = given["pixel_values"].to(net.dtype)
        given.pop("token_type_ids", None)  # of a tokenizer that is made for other models as well
        if net.config.model_type == "git" and self.prompt:  # its tokenizer ends the sentence, and it goes on
            given = {key: value if value.ndim > 2 else value[:, :-1] for key, value in given.items()}  # noqa: PLR2004
        try:
            said = net.generate(
                **given, num_beams=self.beams, max_new_tokens=self.longest, min_length=self.shortest,
                do_sample=False)  # fmt: skip
        except torch.cuda.OutOfMemoryError as e:
            raise Mistake(
                f"batch_size = {self.batch}: more than the card's memory holds; take a smaller one"
            ) from e
        except (RuntimeError, LookupError, ValueError, TypeError) as e:
            why = (str(e).strip() or repr(e)).splitlines()[0]
            raise Mistake(f"captioner = {self.name}: its files do not belong together ({why}); get them anew"
                          ) from e  # fmt: skip
        return [self._alone(words).encode() for words in reader.batch_decode(said, skip_special_tokens=True)]

    def _alone(self, words: str) -> str:
        """Without what it was given to begin with."""
        words = " ".join(words.split())
        begun = " ".join(self.prompt.split()).lower()
        return words[len(begun) :].strip() if begun and words.lower().startswith(begun) else words
