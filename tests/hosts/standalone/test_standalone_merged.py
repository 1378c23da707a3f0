"""Merge, then run, is attach, then run; and what is extracted again does the same."""

from __future__ import annotations

import pathlib

import pytest
import torch

pytest.importorskip("diffusers")
from lora_train.knobs import build  # noqa: E402
from lora_train.run.draw import Worn  # noqa: E402
from lora_train.tools.extract import Extract  # noqa: E402
from lora_train.tools.merge import Merge  # noqa: E402
from tests.hosts.standalone.families import borrowed  # noqa: E402
from tests.tools import saved  # noqa: E402

STRENGTH = 0.7
MERGED = ("tucker", "dora", "lokr", "oft", "full", "normed")


def predictions(lent) -> torch.Tensor:
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        return lent.denoise(x, torch.tensor([30, 900]), lent.encode(["a tall cat", "ink, a dog"]))


def same(a: torch.Tensor, b: torch.Tensor, bare: torch.Tensor) -> bool:
    return float((a - b).abs().max()) < 2e-3 * float((a - bare).abs().max())


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, pathlib.Path]:
    folder = tmp_path_factory.mktemp("files")
    return {family: saved.file(folder, family, by=0.05) for family in (*MERGED, "lora", "loha")}


@pytest.fixture(scope="module")
def attached(files) -> dict[str, torch.Tensor]:
    """What the demo checkpoint predicts with each file on it; "" is the bare one."""
    with borrowed(saved.checkpoint("sd1")) as lent:
        worn = Worn(lent, [*files.values()])
        found = {"": predictions(lent)}
        for i, family in enumerate(files):
            with worn.at([STRENGTH if i == j else 0.0 for j in range(len(files))]):
                found[family] = predictions(lent)
    return found


def of(path: pathlib.Path) -> torch.Tensor:
    with borrowed(path) as lent:
        return predictions(lent)


@pytest.mark.parametrize("family", MERGED)
def test_a_merged_checkpoint_predicts_as_the_file_on_it(family, files, attached, tmp_path):
    made, again = tmp_path / "made.safetensors", tmp_path / "again.safetensors"
    own, usual = str(saved.checkpoint("sd1")), {"save_precision": "float"}
    given = {"models": [str(files[family])], "ratios": [STRENGTH], "sd_model": own, "save_to": str(made)}
    build(Merge, {**given, **usual}).run()
    assert same(of(made), attached[family], attached[""])
    given = {"dim": 4096, "conv_dim": 4096, "norms": True, "biases": True, "save_to": str(again)}
    build(Extract, {"model_org": own, "model_tuned": str(made), **given, **usual}).run()
    with borrowed(saved.checkpoint("sd1")) as lent, Worn(lent, [again]).at([1.0]):
        assert same(predictions(lent), attached[family], attached[""])


def test_joined_files_predict_as_both_on_it(files, attached, tmp_path):
    both = [files["lora"], files["loha"]]
    given = {"models": [*map(str, both)], "ratios": [1, -0.5], "save_to": str(tmp_path / "x.safetensors")}
    build(Merge, {**given, "save_precision": "float"}).run()
    with borrowed(saved.checkpoint("sd1")) as lent:
        with Worn(lent, both).at([1.0, -0.5]):
            wanted = predictions(lent)
        with Worn(lent, [tmp_path / "x.safetensors"]).at([1.0]):
            assert same(predictions(lent), wanted, attached[""])
