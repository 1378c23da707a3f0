"""A desk with canned answers behind the real routes, and a bare page around the real element."""

from __future__ import annotations

import contextlib
import pathlib
import threading
import time
import types

import fake_sheets

from lora_train.errors import Mistake
from lora_train.job import assemble
from lora_train.run import trigger
from lora_train.run.presets import GOALS, Presets
from lora_train.run.schema import schema
from lora_train.ui.api import PREFIX, Api, attach
from lora_train.ui.gate import Gate
from lora_train.ui.guard import Guard
from lora_train.ui.page import assets, root

PAGE = """<!doctype html><html><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Host</title><link rel="stylesheet" href="/style.css">%s
<style>body { margin: 0; padding: 12px; background: #fff } body.dark { background: #0b0f19;
--body-text-color: #f3f4f6; --body-text-color-subdued: #9ca3af; --block-background-fill: #1f2937;
--background-fill-secondary: #111827;
--input-background-fill: #374151; --border-color-primary: #374151;
--button-secondary-background-fill: #4b5563 }
#host { display: none }</style></head>
<body><div id="host"><div id="tabs"><button>txt2img</button></div>
<div id="txt2img_prompt"><textarea></textarea></div>
<div id="audio_notification"><audio></audio></div></div>%s<script>
if (location.search.includes("dark")) document.body.classList.add("dark");
var opts = {localization: location.search.includes("ja") ? "ja_JP" : "None"};
function updateInput(field) { field.dispatchEvent(new Event("input", {bubbles: true})) }
function switch_to_txt2img() { document.body.dataset.tab = "txt2img" }
</script></body></html>"""
DRAWING = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="256" height="256">'
    '<rect width="256" height="256" fill="{}"/><circle cx="128" cy="118" r="{}" fill="#e8b04b"/>'
    '<path d="M0 200 Q128 150 256 210 V256 H0Z" fill="#345"/></svg>'
)
MODEL = {
    "loaded": True,
    "name": "v1-5-pruned-emaonly.safetensors",
    "path": "/models/v1-5.safetensors",
    "hash": "6ce0161689",
    "family": "sd1",
    "prediction": "epsilon",
    "ztsnr": False,
    "vae": None,
    "dtype": "fp16",
    "device": "cuda:0",
    "free_megabytes": 10035,
    "total_megabytes": 12288,
    "trainable": True,
    "reason": None,
    "unchanged": None,
}


class Desk(fake_sheets.Sheets):
    """Says what the page draws; a test sets `run`, `entries`, `left` and `header`, and reads `asked`."""

    def __init__(self, folder: pathlib.Path):
        self.header, self.run_, self.entries, self.left, self.asked = dict(MODEL), None, [], [], []
        self.kept, self.estimate, self.earlier = Presets(folder / "presets"), None, []
        self.drawn = None  # a sheet
        self.sheeted(folder)
        self.slow = 0.0  # seconds that a look takes
        self.told = {}  # parts of a run's insight that are others

    def settings(self):
        return schema()

    def model(self):
        return self.header

    def goals(self):
        return GOALS

    def presets(self):
        return self.kept.list()

    def preset(self, name, goal, family, pictures=None):
        return self.kept.offered(name, goal, family, self.header, pictures)

    def put_preset(self, name, values):
        self.kept.write(name, values)

    def remove_preset(self, name):
        self.kept.remove(name)

    def imported(self, name, data):
        return {
            "values": {"network.dim": 8, "training.max_train_steps": 333},
            "notes": [f"{name}: left out: <b>x</b>"],
        }

    def look(self, values):
        time.sleep(self.slow)
        complaints = []
        try:
            assemble(values, tolerant=True)
        except Mistake as e:
            lines = str(e).splitlines()
            complaints = [{"path": line.partition(" = ")[0], "text": line} for line in lines]
        idle = {"lr.text_encoder_lr": "only the UNet trains"} if values.get("network.train_unet_only") else {}
        found = {"complaints": complaints, "remarks": [], "disabled": idle, "plan": None, "estimate": None}
        if not values.get("data.train_data_dir"):
            text = "data.train_data_dir: expected a folder with pictures; choose one"
            found["complaints"].append({"path": "data.train_data_dir", "text": text})
            return found
        found["remarks"] = [
            {
                "text": "2 pictures are enlarged more than 1.5 times",
                "files": ["0007.png (1.6×)", "<img>.png (1.2×)"],
            }
        ]
        found["plan"] = {
            "text": "",
            "pictures": 20,
            "samples": 200,
            "repeats": 10,
            "buckets": ["a", "b", "c"],
            "batches": 52,
            "steps_per_epoch": 52,
            "steps": 520,
            "epochs": 10,
            "images": 2000,
            "batch_size": 4,
            "saves": [104, 208, 312],
            "draws": [0, 100, 200, 300, 400, 500],
            "latents": {},
            "disk": {"megabytes": 92.5, "free_megabytes": 48200.0},
        }
        found["estimate"] = self.estimate
        return found

    def measure(self, values):
        self.estimate = {"seconds": 411, "seconds_per_step": 0.79, "peak_megabytes": 8294}
        return {"seconds_per_step": 0.79, "peak_megabytes": 8294}

    def trigger(self, text):
        return trigger.look(text)

    def add(self, values, name, start):
        self.asked.append(("add", values, start))
        entry = entry_of(
            "9", values.get("output.output_name", "lora"), "running" if start else "waiting", values
        )
        self.entries.append(entry)
        if start:
            self.run_ = run_of(0, name=entry["name"])
        return {"id": "9"}

    def queue(self):
        return self.entries

    def act(self, id, what):
        self.asked.append((what, id))
        if what in ("remove", "discard"):
            self.entries = [e for e in self.entries if e["id"] != id]
            self.left = [e for e in self.left if e["id"] != id]

    def edit(self, id, values):
        self.asked.append(("edit", id, values))

    def status(self, after):
        run = self.run_ and {**self.run_, "points": [p for p in self.run_["points"] if p[0] > after]}
        return {
            "model": self.header,
            "queue": self.entries,
            "run": run,
            "unfinished": self.left,
            "sheet": self.drawn,
            "now": time.time(),
        }

    def _asked(self, *what):
        self.asked.append(what)

    def pause(self):
        self._asked("pause")
        self.run_["state"] = "paused"

    def go_on(self):
        self._asked("go_on")
        self.run_["state"] = "running"

    def stop(self, save):
        self._asked("stop", save)
        self.run_["state"] = "stopped"

    def save_now(self):
        self._asked("save")

    def sample_now(self):
        self._asked("sample")

    def sheet(self, name, what):
        self.asked.append(("sheet", name, what))
        self.sheets[f"{name}-{what}"] = {**fake_sheets.sheet_of(3), "asked": {"run": name, "what": what}}
        self.drawn = {
            "name": f"{name}-{what}",
            "run": name,
            "what": what,
            "state": "drawing",
            "done": 3,
            "of": 18,
            "left": 12.5,
            "note": "",
            "url": None,
            "suggestion": None,
            "error": None,
        }

    def stop_sheet(self):
        self._asked("stop sheet")

    def runs(self):
        return self.earlier

    def run(self, name):
        return {"name": name, "values": {"network.dim": 4}}

    def clear(self, name, what):
        self._asked("clear", name, what)

    def insight(self, name):
        self._asked("insight", name)
        return {**insight_of(name), **self.told}

    def compare(self, names):
        self._asked("compare", *names)
        return {"runs": [side_of(name, 0.06 * 1.2**i) for i, name in enumerate(names)], "differ": [
            {"path": "network.dim", "values": [8 * 2**i for i in range(len(names))]},
            {"path": "lr.learning_rate", "values": [1e-4] * (len(names) - 1) + [3e-4]}]}  # fmt: skip


def entry_of(id, name, state, values=None, **more):
    return {
        "id": id,
        "name": name,
        "state": state,
        "step": 0,
        "steps": 520,
        "error": None,
        "added": 1.7e9,
        "began": None,
        "ended": None,
        "file": None,
        "model": {"name": MODEL["name"], "hash": MODEL["hash"]},
        "values": values or {"network.dim": 32, "output.output_name": name},
        **more,
    }


def run_of(step, *, name="okara", state="running", **more):
    """A run that has come so far, its curve and samples with it."""
    points, average = [], 0.2
    for i in range(1, step + 1):
        loss = 0.06 + 0.14 * 0.99**i + 0.05 * ((i * 7919) % 97) / 97
        average = 0.97 * average + 0.03 * loss
        rate = 1e-4 * min(1, i / 26)
        points.append([i, loss, average, rate, 0.3 * 0.995**i + loss, 8192, rate, rate / 2])
    drawn = [
        {
            "step": at,
            "number": n,
            "prompt": words,
            "url": f"/lora_train/v1/drawing?of={at + n}",
            "base_url": f"/lora_train/v1/drawing?of={n}",
            "infotext": f"{words}\nSteps: 20, Sampler: DDIM, Seed: {n}",
        }
        for at in range(0, step + 1, 100)
        for n, words in enumerate(["okara, sitting in the snow", "okara <close-up>"])
    ]
    return {
        "id": "1",
        "name": name,
        "state": state,
        "step": step,
        "steps": 520,
        "epoch": step / 52,
        "epochs": 10,
        "seconds": step * 0.79,
        "left": (520 - step) * 0.79,
        "images_per_second": 1.27,
        "megabytes": 8192,
        "loss": points[-1][1] if points else None,
        "average": average if points else None,
        "rates": {"unet": 1e-4, "text_encoder": 5e-5},
        "columns": ["step", "loss", "average", "lr", "norm", "megabytes", "lr/unet", "lr/te1"],
        "points": points,
        "samples": drawn,
        "saves": [],
        "log": [{"time": 1.7e9 + i, "level": level, "text": text} for i, (level, text) in enumerate(LOG)],
        "note": None,
        "memory": None,
        "unchanged": None,
        "result": None,
        **more,
    }


def insight_of(name):
    """What the records of a run of 28 pictures tell."""
    words = [
        "",
        "<b>okara</b>, sitting in the snow",
        "okara, close-up, 1girl, outdoors, looking at viewer " * 3,
    ]
    shots = [
        {
            "file": f"/lora_train/v1/drawing?of={i % 6 * 100 + i}", "name": f"10_okara/{i:04d}.png",
            "caption": words[i % 3], "is_reg": i == 5, "count": 26, "loss": 0.1, "place": i + 1,
            "against": round(1.62 * 0.96**i, 3), "error": None if i == 3 else 0.05,
        }
        for i in range(28)
    ]  # fmt: skip
    bins = [
        {
            "from": 50 * i, "to": 50 * i + 50, "count": 40, "mean": 0.3 / (1 + i) + 0.02,
            "low": 0.2 / (1 + i), "median": 0.28 / (1 + i), "high": 0.4 / (1 + i) + 0.03,
            "early": 0.33 / (1 + i) + 0.02, "late": 0.27 / (1 + i) + 0.02,
        }
        for i in range(20)
    ]  # fmt: skip
    blocks = [
        "te1",
        *(f"IN{i:02d}" for i in (1, 2, 4, 5, 7, 8)),
        "M00",
        *(f"OUT{i:02d}" for i in range(3, 12)),
    ]
    rows = [
        {"name": block, "values": [round((1 + k % 5) * (i / 40) ** 0.6, 4) for i in range(41)]}
        for k, block in enumerate(blocks)
    ]
    return {
        "name": name, "step": 212, "samples": 800, "timesteps": {"said": None, "rows": bins},
        "pictures": {"said": None, "how": "times", "total": 28, "rows": shots},
        "blocks": {"said": None, "steps": list(range(0, 410, 10)), "rows": rows},
    }  # fmt: skip


def side_of(name, loss):
    """A run as it stands beside others."""
    points = [[i, loss + 0.14 * 0.99**i, loss * 1.1 if i % 100 == 0 else None] for i in range(1, 401, 3)]
    bins = [{"from": 50 * i, "to": 50 * i + 50, "mean": loss * 5 / (1 + i)} for i in range(20)]
    return {
        "name": name, "step": 400, "columns": ["step", "average", "validation"], "points": points,
        "average": loss, "best": {"loss": loss * 1.1, "step": 300}, "timesteps": bins,
    }  # fmt: skip


LOG = [
    ("info", "20 pictures, 3 buckets, 52 steps an epoch"),
    ("warning", "0007.png is enlarged 1.6 times"),
    ("info", "saved okara-000002.safetensors <script>alert(1)</script>"),
]
RESULT = {
    "file": "/webui/models/Lora/okara.safetensors",
    "name": "okara",
    "trigger": "okara",
    "bytes": 18_900_000,
    "checks": ["the WebUI's own loader knows all of its 264 layers"],
}


def packages(desk, ask):
    """As hosts/webui/packages.py answers, of one package."""
    if ask.body:
        desk.asked.append(("add package", ask.json["name"]))
    ours = bool(desk.asked)
    row = {"name": "lion-pytorch", "title": "Lion", "use": "optimizer Lion", "ours": ours, "busy": False}
    rows = [{**row, "installed": "0.2" if ours else None, "added": []}]
    return {"notes": ["Added lion-pytorch 0.2."], "packages": rows} if ask.body else rows


@contextlib.contextmanager
def served(folder: pathlib.Path, host: str = "webui", port: int = 0, desk=None):
    """(address of the page, its desk); with a desk of one's own in place of this one."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import FileResponse, HTMLResponse, Response
    from starlette.routing import Route

    scripts, style = assets()
    head = "".join(f'<script src="/js/{p.name}"></script>' for p in scripts)
    folders = types.SimpleNamespace(loras=folder, desk=folder, models=(), pictures=())
    desk, app = desk or Desk(folder), Starlette()
    api = Api(lambda: desk, lambda: Guard(folders), Gate(), closing=lambda: server.should_exit)
    api.answer(
        "POST",
        "/demo",
        lambda desk, ask: {
            "values": {"data.train_data_dir": str(folder), "output.output_name": "ink", "network.dim": 16},
            "notes": [],
        },
    )
    for method in ("GET", "POST", "DELETE"):
        api.answer(method, "/packages", packages)
    attach(app, api)
    found = {p.name: p for p in scripts}
    colours = ["#334", "#445", "#556", "#355", "#654", "#565"]

    def drawing(request):
        at = int(request.query_params["of"])
        return Response(
            DRAWING.format(colours[at // 100 % 6], 30 + at % 100 * 40), media_type="image/svg+xml"
        )

    app.router.routes[:0] = [
        Route("/", lambda request: HTMLResponse(PAGE % (head, root(host)))),
        Route("/style.css", lambda request: FileResponse(style)),
        Route("/js/{name}", lambda request: FileResponse(found[request.path_params["name"]])),
        Route(f"{PREFIX}/drawing", drawing),
    ]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/", desk
    finally:
        server.should_exit = True
        thread.join(10)
