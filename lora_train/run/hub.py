"""Hugging Face: saved files are sent to a repository there, and a state is fetched from one."""

from __future__ import annotations

import concurrent.futures
import importlib.util
import logging
import os
import pathlib
from typing import TYPE_CHECKING

from lora_train.errors import Mistake
from lora_train.train.events import Progress, Watcher

if TYPE_CHECKING:
    from lora_train.job import Hub

log = logging.getLogger(__name__)

MISSING = "needs the package huggingface_hub; pip install huggingface_hub"
STATE = "state.safetensors"
NAMED = 2  # words of a repository's name: user/name


def unready(hub: Hub) -> list[str]:
    """What is said where nothing could be sent from here."""
    if hub.repo_id is None or importlib.util.find_spec("huggingface_hub"):
        return []
    return [f"output.hub.repo_id = {hub.repo_id}: {MISSING}"]


class Uploads(Watcher):
    """Sends every file that is saved, and states where they are asked for. What cannot be sent is told of
    once and tried again at the end: no run ends for it."""

    def __init__(self, hub: Hub):
        self.hub, self.lost, self.told = hub, {}, False
        self.pool = concurrent.futures.ThreadPoolExecutor(1) if hub.async_upload else None

    def started(self, progress: Progress) -> None:
        self._tried(self._made, "")

    def saved(self, progress: Progress, file: pathlib.Path) -> None:
        self._soon(file)

    def kept(self, folder: pathlib.Path) -> None:
        """A state was written."""
        if self.hub.save_state:
            self._soon(folder)

    def finished(self, progress: Progress, error: BaseException | None) -> None:
        """Waits for what is still under way."""
        if self.pool is not None:
            self.pool.shutdown(wait=True)
        again, self.lost = [path for path in self.lost if path.exists()], {}
        for path in again:
            self._sent(path)
        if self.lost:
            names = ", ".join(str(path) for path in self.lost)
            log.warning("Not sent to Hugging Face: %s; upload by hand what is to be there", names)
        elif again:
            log.info("All that was saved is on Hugging Face now")

    def _soon(self, path: pathlib.Path) -> None:
        if self.pool is None:
            self._sent(path)
        else:
            self.pool.submit(self._sent, path)

    def _sent(self, path: pathlib.Path) -> None:
        if self._tried(lambda: self._send(path), str(path)):
            self.lost.pop(path, None)
        else:
            self.lost[path] = True

    def _tried(self, act: object, what: str) -> bool:
        try:
            act()
        except Exception as e:  # noqa: BLE001 (whatever the package, the network or the server raises)
            if not self.told:
                log.warning(
                    "%s cannot be sent to %s (%s). The run goes on; at its end it is tried again",
                    what or "What is saved", self.hub.repo_id, _line(e))  # fmt: skip
            self.told = True
            return False
        return True

    def _made(self) -> None:
        """The repository, where there is none yet."""
        hub = self.hub
        _api().create_repo(
            hub.repo_id, repo_type=hub.repo_type, private=hub.repo_visibility != "public", exist_ok=True
        )

    def _send(self, path: pathlib.Path) -> None:
        if not path.exists():  # removed again, as save_last_n_epochs says
            return
        hub, to = self.hub, path.name
        if hub.path_in_repo:
            to = f"{hub.path_in_repo.strip('/')}/{to}"
        if path.is_dir():
            _api().upload_folder(
                repo_id=hub.repo_id, repo_type=hub.repo_type, folder_path=str(path), path_in_repo=to
            )
        else:
            _api().upload_file(
                repo_id=hub.repo_id, repo_type=hub.repo_type, path_or_fileobj=str(path), path_in_repo=to
            )


def fetched(named: str) -> pathlib.Path:
    """The folder with a state, brought here from where it is.

    Args:
        named: as sd-scripts' --resume has it: user/name/folder, and behind colons a revision and a type.

    Raises:
        Mistake: it is not named so, or cannot be had.
    """
    lead = f"place.resume = {named}"
    words, *more = named.replace("\\", "/").split(":")
    parts = words.strip("/").split("/")
    if len(parts) <= NAMED or len(more) > NAMED:
        raise Mistake(f"{lead}: expected user/name/folder of a state on Hugging Face")
    revision, kind = [*more, None, None][:NAMED]
    try:
        found = _api().hf_hub_download(
            "/".join(parts[:NAMED]), "/".join([*parts[NAMED:], STATE]), revision=revision or None,
            repo_type=kind or None)  # fmt: skip
    except ImportError as e:
        raise Mistake(f"{lead}: {MISSING}") from e
    except Exception as e:  # the package's own, the network's, and of a name that cannot be
        raise Mistake(f"{lead}: cannot be fetched from Hugging Face ({_line(e)})") from e
    return pathlib.Path(found).parent


def _api() -> object:
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)


def _line(error: Exception) -> str:
    """Its first line, without a key."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    key = os.environ.get("HF_TOKEN")
    return text.replace(key, "…") if key else text
