"""A captioner behind an address that speaks as OpenAI's does, as LM Studio's and Ollama's do."""

from __future__ import annotations

import base64
import concurrent.futures
import dataclasses
import functools
import http.client
import io
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from PIL import Image

from lora_train.errors import Mistake

KEY = "LORA_TRAIN_API_KEY"  # of the environment; another program's key is not sent to just any address
ASK = ("Describe this picture in one or two plain sentences, as a caption that an image model is trained "
       "with. Say what is to be seen, and nothing else.")  # fmt: skip
SECONDS = 300  # that an answer may take
TRIES = 4
PAUSE = 2.0  # seconds before the second try; each time twice as long
QUALITY = 90  # of the JPEG that is sent
BUSY = (408, 409, 425, 429, 500, 502, 503, 504, 529)  # answers after which it is asked again


class Unmoved(urllib.request.HTTPRedirectHandler):
    """An address that sends one elsewhere gets neither picture nor key there."""

    def redirect_request(self, *given: object) -> None:
        return None


@dataclasses.dataclass(frozen=True)
class Address:
    """The server's address, up to and with /v1, and which of its models."""

    address: str
    model: str = ""
    prompt: str = ""
    side: int = 1024  # the longer one of what is sent, at most
    longest: int = 300  # tokens
    batch: int = 1  # asked at the same time

    @property
    def id(self) -> str:
        return str((self.address, self.model, self.prompt, self.side, self.longest))

    @functools.cached_property
    def called(self) -> str:
        """The model's name; without one the first that the server lists.

        Raises:
            Mistake: it lists none, or does not answer.
        """
        if self.model:
            return self.model
        try:
            return str(self._answer("models", None)["data"][0]["id"])
        except (LookupError, TypeError) as e:
            raise Mistake(f"address = {self.address}: lists no models; name one with captioner") from e

    def ready(self) -> None:
        self.called  # noqa: B018 (it is asked for)

    def prepared(self, image: Image.Image) -> str:
        """As an address of its own."""
        image.thumbnail((self.side, self.side), Image.LANCZOS)
        held = io.BytesIO()
        image.save(held, "JPEG", quality=QUALITY)
        return f"data:image/jpeg;base64,{base64.b64encode(held.getvalue()).decode()}"

    def asked(self, batch: Sequence[str]) -> list[bytes | Mistake]:
        """One that is refused is a Mistake in its place; where the server is not to be had, it is raised."""
        with concurrent.futures.ThreadPoolExecutor(len(batch)) as pool:
            return [*pool.map(self._said, batch)]

    def _said(self, picture: str) -> bytes | Mistake:
        parts = [{"type": "text", "text": self.prompt or ASK},
                 {"type": "image_url", "image_url": {"url": picture}}]  # fmt: skip
        ask = {
            "model": self.called,
            "max_tokens": self.longest,
            "messages": [{"role": "user", "content": parts}],
        }
        try:
            text = self._answer("chat/completions", ask)["choices"][0]["message"]["content"] or ""
        except Refused as e:
            return Mistake(str(e))
        except (LookupError, TypeError) as e:
            raise Mistake(
                f"address = {self.address}: gave no answer as OpenAI's; expected one up to /v1"
            ) from e
        return " ".join(str(text).split()).encode(errors="replace")  # half a pair of UTF-16 is no letter

    def _answer(self, path: str, ask: object) -> Any:
        """Raises Mistake: it is not to be had; Refused: it did not want this picture."""
        heads = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY, "").strip():
            if not (key.isascii() and key.isprintable()):  # what refuses it would print it
                raise Mistake(f"{KEY}: expected a key of plain letters, without line breaks")
            heads["Authorization"] = f"Bearer {key}"
        body = None if ask is None else json.dumps(ask).encode()
        asking = urllib.request.Request(f"{self.address.rstrip('/')}/{path}", body, heads)  # noqa: S310
        opener = urllib.request.build_opener(Unmoved)
        for n in range(TRIES):
            wait = PAUSE * 2**n
            try:
                with opener.open(asking, timeout=SECONDS) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as e:
                reason = f"{e.code} {e.reason}: {e.read(500).decode(errors='replace')}"
                if e.code in (400, 413, 422) and ask is not None:
                    raise Refused(f"refused ({reason})") from e
                if e.code not in BUSY:
                    break
                said = e.headers.get("Retry-After", "")
                wait = min(float(said), 60.0) if said.isdecimal() else wait
            except (OSError, ValueError, http.client.HTTPException) as e:
                reason = str(e.reason if isinstance(e, urllib.error.URLError) else e)
            if n + 1 < TRIES:
                time.sleep(wait)
        raise Mistake(
            f"address = {self.address}: does not answer ({reason}); see whether the server is on, and "
            f"whether {KEY} is set where it wants a key. What it said until then is kept")  # fmt: skip


class Refused(Exception):
    """Of one picture."""
