"""The demo's checkpoint, among the WebUI's, loaded."""

from __future__ import annotations

import pathlib

from lora_train.errors import Mistake
from lora_train.hosts.webui.folders import folders
from lora_train.ui import demo

NAME = "lora-train-demo"


def demonstrated(desk: object) -> dict[str, object]:
    """Everything in place; the values to train with, and what was changed in the WebUI.

    Raises:
        Mistake: a run has the model, or the WebUI could not load the checkpoint.
    """
    from modules import sd_models, shared

    run = desk.status(0)["run"]
    if run and run["state"] in ("running", "paused"):
        raise Mistake(f"{run['name']} is training; the demo loads another model, so wait for it or stop it")
    folder = pathlib.Path(sd_models.model_path, NAME)
    checkpoint = folder / f"{NAME}.safetensors"
    demo.copied(demo.CHECKPOINT / "demo.safetensors", checkpoint)
    demo.copied(demo.CHECKPOINT / "demo_clip", folder / "clip")
    config = (demo.CHECKPOINT / "demo.yaml").read_text(encoding="utf-8")
    own = config.replace("version: demo_clip", f"version: '{(folder / 'clip').as_posix()}'")
    checkpoint.with_suffix(".yaml").write_text(own, encoding="utf-8")
    values = demo.values(folders().desk / "pictures", checkpoint)

    shared.sd_model  # noqa: B018 (waits for the model of the start; two loads at once break each other)
    sd_models.list_models()
    info = next(i for i in sd_models.checkpoints_list.values() if pathlib.Path(i.filename) == checkpoint)
    shared.opts.set("sd_model_checkpoint", info.title)  # waits for what is being drawn, then loads
    desk.forget()
    loaded = shared.sd_model
    if loaded is None or loaded.sd_checkpoint_info.filename != info.filename:
        raise Mistake(f"{checkpoint}: the WebUI could not load it; its console says why")
    shared.opts.save(shared.config_filename)  # as when it is chosen at the top of the page
    notes = [f"{info.title} is loaded now; choose your own checkpoint at the top when you are done."]
    return {"values": values, "notes": notes, "checkpoint": info.title}
