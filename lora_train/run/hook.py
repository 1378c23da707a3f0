"""The webhook: an address that is told when a run has ended. It never holds up or fails a run."""

from __future__ import annotations

import html
import json
import logging
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping

from lora_train.errors import Mistake

PATIENCE = 10.0  # seconds that the address has to answer in
LONGEST = 500  # characters of an error; chats take no more than 2000 in all

log = logging.getLogger(__name__)


class _Here(urllib.request.HTTPRedirectHandler):
    """Goes nowhere else: who is told is the address that was given."""

    def redirect_request(self, *_: object) -> None:
        return None


def address(text: str) -> str:
    """Raises Mistake: not an address that can be told. It is not repeated, for it often is a secret."""
    try:
        parts = urllib.parse.urlsplit(text.strip())
    except ValueError:
        parts = urllib.parse.urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Mistake("webhook: expected an address that begins with http:// or https://")
    return text.strip()


def said(facts: Mapping[str, object]) -> dict[str, object]:
    """What is sent: the facts, and one sentence where Discord (`content`) and Slack (`text`) look for it."""
    error = str(facts.get("error") or "").splitlines()
    why = f": {error[0][:LONGEST]}" if error else ""
    sentence = f"{facts['name']} {_ended(facts)}{why}"
    return {
        **facts, "content": sentence, "text": html.escape(sentence, quote=False),
        "allowed_mentions": {"parse": []},  # a name with @everyone in it calls nobody
    }  # fmt: skip


def _ended(facts: Mapping[str, object]) -> str:
    state, seconds = facts["state"], round(float(facts.get("seconds") or 0))
    took = f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    if state == "failed":
        return f"failed at step {facts['step']}"
    if state == "stopped":
        return f"was stopped at step {facts['step']} of {facts['steps']} after {took}"
    return f"is finished: {facts['steps']} steps in {took}"


def tell(
    to: str, facts: Mapping[str, object], complain: Callable[[str], object] = lambda text: None
) -> threading.Thread | None:
    """Sends it from a thread of its own; None where nobody is to be told.

    Args:
        complain: is given the sentence that it did not arrive; the console has it as well.
    """
    if not to.strip():
        return None

    def send() -> None:
        if why := _lost(to, said(facts)):
            text = f"the webhook was not told of the end of {facts['name']}: {why}"
            log.warning("%s", text)
            complain(text)

    thread = threading.Thread(target=send, name="lora-train-hook", daemon=True)
    thread.start()
    return thread


def _lost(to: str, what: Mapping[str, object]) -> str | None:
    """Why it did not arrive; without the address."""
    try:
        request = urllib.request.Request(
            address(to), json.dumps(what).encode(), method="POST",
            headers={"Content-Type": "application/json", "User-Agent": "lora-train"})  # fmt: skip
        with urllib.request.build_opener(_Here()).open(request, timeout=PATIENCE):
            return None
    except Mistake as e:
        return str(e)
    except urllib.error.HTTPError as e:
        return f"it answered {e.code}"
    except urllib.error.URLError as e:
        return f"it cannot be reached ({e.reason})"
    except Exception as e:  # noqa: BLE001 (whatever an address does, the run has ended well)
        return f"it cannot be reached ({type(e).__name__})"
