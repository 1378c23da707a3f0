"""The routes under /lora_train/v1: who asks, for what, and the desk's answer as JSON."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

from lora_train.errors import Mistake
from lora_train.ui import dataset
from lora_train.ui.ask import Ask
from lora_train.ui.guard import PICTURES, SHOWN

if TYPE_CHECKING:
    import pathlib

    from lora_train.run.desk import Desk
    from lora_train.ui.gate import Gate
    from lora_train.ui.guard import Guard

PREFIX = "/lora_train/v1"
LARGEST = 32 * 2**20  # bytes of a request
FAULTY = "this is a fault of lora-train, and its traceback stands in the console; please report it"
BEAT, LIFE = 0.5, 120.0  # seconds between looks at the desk, and until a stream ends and the page asks anew
AGAIN = 15  # seconds that pages wait where the server ends, as for a Reload UI
QUIET = 15.0  # seconds after which a stream without news says that it is there

HALF = re.compile("[\ud800-\udfff]")  # what stands in a name for a byte that is no letter

log = logging.getLogger(__name__)


def _added(desk: Desk, ask: Ask) -> object:
    name = ask.json.get("name")
    return desk.add(ask.values, None if name is None else str(name), ask.flag("start", False))


ANSWERS: tuple[tuple[str, str, Callable[[Desk, Ask], object]], ...] = (
    ("GET", "/settings", lambda desk, ask: desk.settings()),
    ("GET", "/model", lambda desk, ask: desk.model()),
    ("GET", "/goals", lambda desk, ask: desk.goals()),
    ("GET", "/presets", lambda desk, ask: desk.presets()),
    ("GET", "/presets/{name}", lambda desk, ask: desk.preset(
        ask.name, ask.query.get("goal"), ask.query.get("family"), ask.whole("pictures") or None)),
    ("PUT", "/presets/{name}", lambda desk, ask: desk.put_preset(ask.name, ask.values)),
    ("DELETE", "/presets/{name}", lambda desk, ask: desk.remove_preset(ask.name)),
    ("GET", "/block_presets", lambda desk, ask: desk.block_presets()),
    ("PUT", "/block_presets/{name}", lambda desk, ask: desk.put_block_preset(
        ask.name, str(ask.json.get("text", "")))),
    ("DELETE", "/block_presets/{name}", lambda desk, ask: desk.remove_block_preset(ask.name)),
    ("POST", "/import", lambda desk, ask: desk.imported(ask.query.get("name", ""), ask.body)),
    ("POST", "/look", lambda desk, ask: desk.look(ask.values)),
    ("POST", "/measure", lambda desk, ask: desk.measure(ask.values)),
    ("GET", "/trigger", lambda desk, ask: desk.trigger(ask.query.get("text", ""))),
    ("GET", "/folders", lambda desk, ask: ask.guard.browse(ask.query.get("path", ""))),
    ("POST", "/open", lambda desk, ask: ask.guard.open(str(ask.json.get("path", "")))),
    ("GET", "/queue", lambda desk, ask: desk.queue()),
    ("POST", "/queue", _added),
    ("POST", "/queue/{id}/{what}", lambda desk, ask: desk.act(ask.place["id"], ask.place["what"])),
    ("PUT", "/queue/{id}", lambda desk, ask: desk.edit(ask.place["id"], ask.values)),
    ("GET", "/status", lambda desk, ask: desk.status(ask.whole("after"))),
    ("POST", "/run/pause", lambda desk, ask: desk.pause()),
    ("POST", "/run/go_on", lambda desk, ask: desk.go_on()),
    ("POST", "/run/stop", lambda desk, ask: desk.stop(ask.flag("save", True))),
    ("POST", "/run/save", lambda desk, ask: desk.save_now()),
    ("POST", "/run/sample", lambda desk, ask: desk.sample_now()),
    ("GET", "/runs", lambda desk, ask: desk.runs()),
    ("GET", "/runs/{name}", lambda desk, ask: desk.run(ask.name)),
    ("GET", "/runs/{name}/insight", lambda desk, ask: desk.insight(ask.name)),
    ("GET", "/compare", lambda desk, ask: desk.compare(ask.names)),
    ("POST", "/runs/{name}/sheet", lambda desk, ask: desk.sheet(ask.name, str(ask.json.get("what", "")))),
    ("POST", "/sheet/stop", lambda desk, ask: desk.stop_sheet()),
    ("GET", "/tools", lambda desk, ask: desk.tools()),
    ("GET", "/tools/now", lambda desk, ask: desk.tool_now()),
    ("GET", "/tools/files", lambda desk, ask: desk.tool_files()),
    ("POST", "/tools/stop", lambda desk, ask: desk.stop_tool()),
    ("POST", "/tools/{name}/look", lambda desk, ask: desk.look_tool(*ask.tool(desk.bench))),
    ("POST", "/tools/{name}", lambda desk, ask: desk.use_tool(*ask.tool(desk.bench))),
    ("GET", "/axes", lambda desk, ask: desk.axes()),
    ("GET", "/sheets", lambda desk, ask: desk.drawn_sheets()),
    ("GET", "/sheets/{name}", lambda desk, ask: desk.drawn_sheet(ask.name, ask.whole("after"))),
    ("POST", "/sheets/{name}/look", lambda desk, ask: desk.look_sheet(*ask.sheet)),
    ("POST", "/sheets/{name}", lambda desk, ask: desk.plan_sheet(*ask.sheet)),
    ("DELETE", "/sheets/{name}", lambda desk, ask: desk.remove_sheet(ask.name)),
    ("DELETE", "/runs/{name}", lambda desk, ask: desk.clear(ask.name, ask.query.get("what", ""))),
)  # fmt: skip


class Api:
    """The desk behind routes. It opens when it is first asked: a WebUI's start waits for nothing of it."""

    def __init__(
        self,
        desk: Callable[[], Desk],
        guard: Callable[[], Guard],
        gate: Gate,
        *,
        closing: Callable[[], bool] = lambda: False,
    ):
        """closing: whether the server ends; streams end then, for it waits for them."""
        self.desk, self.guard, self.gate, self.closing = desk, guard, gate, closing
        self.own: list[tuple[str, str, Callable[[Desk, Ask], object]]] = []

    def answer(self, method: str, path: str, answer: Callable[[Desk, Ask], object]) -> None:
        """A route that only one host has."""
        self.own.append((method, path, answer))

    def routes(self) -> list[Route]:
        rows = [*ANSWERS, *dataset.ANSWERS, *self.own]
        made = [Route(PREFIX + path, self._asked(answer), methods=[method]) for method, path, answer in rows]
        made.append(Route(f"{PREFIX}/file", self._file, methods=["GET"]))
        made.append(Route(f"{PREFIX}/events", self._events, methods=["GET"]))
        made.append(Route(f"{PREFIX}/{{rest:path}}", self._nowhere, methods=["GET", "POST", "PUT", "DELETE"]))
        return made

    def _asked(self, answer: Callable[[Desk, Ask], object]) -> Callable:
        async def asked(request: Request) -> Response:
            if no := self.gate.refusal(request):
                return _refused(*no)
            try:
                body = await _body(request)
            except ClientDisconnect:
                return Response(status_code=400)  # to nobody: the page was left while it asked
            if body is None:
                return _refused(413, f"body: expected at most {LARGEST // 2**20} MiB")
            return await run_in_threadpool(self._answered, answer, request, body)

        return asked

    def _answered(self, answer: Callable[[Desk, Ask], object], request: Request, body: bytes) -> Response:
        try:
            ask = Ask(request.path_params, request.query_params, body, self.guard())
            return said(answer(self.desk(), ask))
        except Mistake as e:
            return _refused(422, str(e))
        except LookupError as e:
            if type(e) is not LookupError:  # a KeyError is a slip of ours
                log.exception(FAULTY)
                return _refused(500, FAULTY)
            return _refused(404, str(e))
        except OSError as e:
            if not isinstance(e.filename, str):
                log.exception(FAULTY)
                return _refused(500, FAULTY)
            return _refused(422, f"{e.filename}: {e.strerror}; check the path and its rights")
        except Exception:
            log.exception(FAULTY)
            return _refused(500, FAULTY)

    async def _nowhere(self, request: Request) -> Response:
        no = self.gate.refusal(request)
        return _refused(*no) if no else _refused(404, f"{request.url.path}: no such route")

    async def _file(self, request: Request) -> Response:
        if no := self.gate.refusal(request):
            return _refused(*no)
        headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "private, no-cache"}
        width = request.query_params.get("width", "")
        try:
            text, copied = request.query_params.get("path", ""), width.isdecimal()
            endings = PICTURES if copied else SHOWN
            path = await run_in_threadpool(lambda: self.guard().picture(text, endings))
            if not copied:
                return FileResponse(path, headers=headers)
            data = await run_in_threadpool(_small, path, int(width[:6]))
        except Mistake as e:
            return _refused(422, str(e))
        except OSError as e:  # it has just gone, or its disk has
            return _refused(422, f"{e.filename}: {e.strerror}; open the folder again")
        return Response(data, media_type="image/jpeg", headers=headers)

    async def _events(self, request: Request) -> Response:
        if no := self.gate.refusal(request):
            return _refused(*no)
        begin = request.headers.get("last-event-id") or request.query_params.get("after", "0")
        # an encoding is named because the WebUI's compression would hold events back until it has enough
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Content-Encoding": "identity"}
        stream = self._stream(request, int(begin) if begin.isdecimal() else 0)
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    def _status(self, after: int) -> dict:
        try:
            return self.desk().status(after)
        except Mistake as e:
            return {"error": str(e)}
        except Exception:
            log.exception(FAULTY)
            return {"error": FAULTY}

    async def _stream(self, request: Request, after: int) -> AsyncIterator[str]:
        """States of the desk as they change: at once where it is not about the time, else once a second."""
        yield "retry: 1000\n\n"
        end, before, told = time.monotonic() + LIFE, None, time.monotonic()
        while time.monotonic() < end and not self.closing():
            status = await run_in_threadpool(self._status, after)
            if "error" in status:
                yield f"event: trouble\ndata: {dumped(status)}\n\n"
                return
            text = dumped({k: v for k, v in status.items() if k != "now"})
            if text != before:
                points = (status.get("run") or {}).get("points") or []
                after = int(points[-1][0]) if points else after
                yield f"id: {after}\ndata: {dumped(status)}\n\n"
                before, told = text, time.monotonic()
            elif time.monotonic() - told > QUIET:
                yield ": still here\n\n"
                told = time.monotonic()
            await asyncio.sleep(BEAT)
            if await request.is_disconnected():
                return
        if self.closing():  # v1.10.1 ends for good if it is asked for anything while it starts its page anew
            yield f"retry: {AGAIN * 1000}\n\n"


def _small(path: pathlib.Path, width: int) -> bytes:
    """Raises Mistake: not a picture that can be read."""
    from lora_train.run.small import small  # brings torch, which a WebUI's start does not wait for

    return small(path, width)


def attach(app: object, api: Api) -> None:
    """Put the routes before those of the app, in place of those of an earlier call."""
    app.router.routes[:] = [r for r in app.router.routes if not getattr(r, "path", "").startswith(PREFIX)]
    app.router.routes[:0] = api.routes()


def said(value: object, status: int = 200) -> Response:
    return Response(
        dumped(value), status, media_type="application/json", headers={"Cache-Control": "no-store"}
    )


def dumped(value: object) -> str:
    """JSON that a browser reads: a loss that is not a number is null; names of files may be no text."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    except ValueError:
        text = json.dumps(_finite(value), allow_nan=False, ensure_ascii=False)
    return HALF.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _refused(status: int, text: str) -> Response:
    return said({"error": text}, status)


async def _body(request: Request) -> bytes | None:
    """All of it, of a .safetensors only the header, None where it is too long."""
    asked = request.query_params.get("name", "").lower()
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > LARGEST:
            return None if not asked.endswith(".safetensors") else b"".join(parts)
    return b"".join(parts)
