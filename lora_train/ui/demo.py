"""The demo's pictures, put where a person finds them, and the job that learns their style in minutes."""

from __future__ import annotations

import pathlib
import shutil

from lora_train.errors import Mistake

HERE = pathlib.Path(__file__).resolve().parents[2] / "demo"
CHECKPOINT = HERE / "checkpoint"
STEPS = 300
FEW = 3  # prompts, of those that the demo draws: more would take longer than the training


def values(folder: pathlib.Path, checkpoint: pathlib.Path) -> dict[str, object]:
    """Copies pictures and prompts below a folder; the settings to train on them with.

    Raises:
        Mistake: the demo did not come with this installation.
    """
    pictures, prompts = folder / "demo", folder / "demo-prompts.txt"
    copied(HERE / "dataset", pictures)
    lines = (HERE / "prompts.txt").read_text(encoding="utf-8").splitlines()
    few = [line for line in lines if not line.startswith("#")][:FEW]
    prompts.write_text("\n".join([*few, ""]), encoding="utf-8")
    return {
        "model.pretrained_model_name_or_path": str(checkpoint), "data.train_data_dir": str(pictures),
        "data.resolution": "64", "data.batch_size": 4, "network.dim": 16, "network.alpha": 16,
        "network.conv_dim": 8, "network.conv_alpha": 8, "lr.kind": "cosine", "lr.learning_rate": 0.003,
        "lr.lr_warmup_steps": 0.05, "training.max_train_steps": STEPS, "training.seed": 1,
        "output.output_name": "ink", "output.sample_prompts": str(prompts),
        "output.sample_every_n_steps": STEPS // 3, "output.sample_at_first": True,
        "output.card.trigger_phrase": "ink style",
    }  # fmt: skip


def copied(source: pathlib.Path, target: pathlib.Path) -> None:
    """A file or folder, as it is in the source; what is there already and is as long is left alone."""
    if not source.exists():
        raise Mistake(
            f"{source}: the demo's files are not here; they come with the repository, not with the package"
        )
    files = [p for p in source.rglob("*") if p.is_file()] if source.is_dir() else [source]
    for file in files:
        to = target / file.relative_to(source) if source.is_dir() else target
        if to.is_file() and to.stat().st_size == file.stat().st_size:
            continue
        to.parent.mkdir(parents=True, exist_ok=True)
        part = to.with_name(f"{to.name}.part")
        shutil.copyfile(file, part)
        part.replace(to)
