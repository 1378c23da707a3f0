"""The routes of the room Dataset: what is asked of the workroom."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lora_train.errors import Mistake

if TYPE_CHECKING:
    from lora_train.run.desk import Desk
    from lora_train.ui.ask import Ask


def _writable(ask: Ask) -> dict[str, object]:
    """The folder, which may be changed."""
    where = ask.where
    ask.guard.path(where.get("folder", ""), "folder", written=True)
    return where


def _job(ask: Ask) -> dict[str, object]:
    """Settings of a training, of which no file is read."""
    values = ask.json.get("values") or {}
    if not isinstance(values, dict):
        raise Mistake("values: expected an object of settings, or nothing")
    return values


ANSWERS: tuple[tuple[str, str, Callable[[Desk, Ask], object]], ...] = (
    ("POST", "/dataset/open", lambda desk, ask: desk.workroom.open(ask.where)),
    ("POST", "/dataset/items", lambda desk, ask: desk.workroom.items(
        ask.where, _job(ask), *ask.page)),
    ("POST", "/dataset/names", lambda desk, ask: desk.workroom.names(ask.where, *ask.page[2:])),
    ("POST", "/dataset/item", lambda desk, ask: desk.workroom.item(
        ask.where, str(ask.json.get("name", "")), _job(ask))),
    ("POST", "/dataset/tags", lambda desk, ask: desk.workroom.tags(ask.where)),
    ("POST", "/dataset/history", lambda desk, ask: desk.workroom.history(ask.where)),
    ("POST", "/dataset/undo", lambda desk, ask: desk.workroom.undo(
        _writable(ask), ask.flag("leave", False))),
    ("POST", "/dataset/redo", lambda desk, ask: desk.workroom.redo(_writable(ask))),
    ("GET", "/dataset/works", lambda desk, ask: desk.workroom.bench.tools()),
    ("GET", "/dataset/now", lambda desk, ask: desk.workroom.bench.view()),
    ("POST", "/dataset/stop", lambda desk, ask: desk.workroom.bench.stop()),
    ("POST", "/dataset/works/{name}/look", lambda desk, ask: desk.workroom.look(
        *ask.tool(desk.workroom.bench))),
    ("POST", "/dataset/works/{name}", lambda desk, ask: desk.workroom.bench.begin(
        *ask.tool(desk.workroom.bench))),
)  # fmt: skip
