"""LoRAs that are on the model under what is trained."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import ImageChops
from PIL.Image import open as opened
from safetensors import safe_open
from safetensors.torch import load_file

from lora_train.adapters.file import load, network_of
from lora_train.errors import Mistake
from lora_train.job import assemble
from tests.run.test_adapters_in_a_run import Lender
from tests.tiny import Tiny

LATER = {"training__max_train_steps": 4, "network__train_unet_only": True}


@pytest.fixture
def below(trained):
    """A LoRA that changes something, of both parts."""
    return trained("below", lr__learning_rate=0.05, output__output_name="below").file


def merged(file, strength: float) -> Tiny:
    """The model with a LoRA worked into its weights, by its matrices."""
    lent = Tiny()
    network = network_of(load(file)[0], lent.layers())
    with torch.no_grad():
        for key, adapter in network.adapters.items():
            network.layers[key].weight().add_(strength * adapter.delta())
    return lent


def test_training_on_it_is_training_on_the_model_it_is_merged_into(trained, below):
    """Two floats' worth of rounding apart; and without it the result is another one."""
    found = load_file(
        trained("a", model__base_weights=below, model__base_weights_multiplier=0.7, **LATER).file
    )
    truth = load_file(trained("b", host=Lender(merged(below, 0.7)), **LATER).file)
    plain = load_file(trained("c", **LATER).file)
    ups = [name for name in truth if name.endswith("lora_down.weight")]
    near = max(float((found[name] - truth[name]).abs().max()) for name in ups)
    far = max(float((found[name] - plain[name]).abs().max()) for name in ups)
    assert near < 1e-4
    assert far > 100 * near


def test_the_model_is_never_written_to_and_its_weights_come_back(trained, below):
    lent, before = Tiny(), Tiny()
    trained("a", host=Lender(lent), model__base_weights=below, **LATER)
    for part in ("unet", "te1"):
        same = zip(lent.parts[part].parameters(), before.parts[part].parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in same)
        assert not any(module._forward_hooks for module in lent.parts[part].modules())


def test_samples_have_it_also_without_the_lora(trained, below, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat --w 64 --h 64 --d 1\n", encoding="utf-8")
    how = {"output__sample_prompts": prompts, "output__sample_at_first": True, **LATER}
    for folder, more in (("with", {"model__base_weights": below}), ("without", {}),
                         ("merged", {"host": Lender(merged(below, 1.0))})):  # fmt: skip
        trained(folder, **how, **more)
    first = {
        name: opened(min((tmp_path / name / "sample").iterdir())) for name in ("with", "without", "merged")
    }
    apart = {name: max(high for _, high in ImageChops.difference(first["with"], first[name]).getextrema())
             for name in first}  # fmt: skip
    assert apart["merged"] <= 2 < apart["without"]


def test_the_file_says_what_it_was_trained_on(trained, below):
    done = trained("a", model__base_weights=[below, below], model__base_weights_multiplier=[0.5], **LATER)
    with safe_open(done.file, "pt") as file:
        said = json.loads(file.metadata()["lora_train_base_weights"])
    assert [(one["name"], one["multiplier"]) for one in said] == [
        ("below.safetensors", 0.5),
        ("below.safetensors", 1),
    ]
    assert str(below.parent) not in json.dumps(said)


def test_going_on_needs_the_same_files(trained, below):
    how = {"model__base_weights": below, **LATER}
    whole = load_file(trained("whole", **how).file)
    stopped = trained("halves", stop=2, output__save_state=True, **how)
    with pytest.raises(Mistake, match=r"saved with other files in model\.base_weights"):
        trained("halves", place__resume=stopped.state, **LATER)
    again = load_file(trained("halves", place__resume=stopped.state, **how).file)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"model.base_weights_multiplier": 1}, "model.base_weights_multiplier: expected no more than"),
        ({"model.base_weights": "a.safetensors, b c.safetensors", "model.base_weights_multiplier": "1,2,3"},
         "model.base_weights_multiplier: expected no more than base_weights has files, 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(values, text):
    with pytest.raises(Mistake) as e:
        assemble(values)
    assert str(e.value).startswith(text)


def test_families_that_need_whole_weights_are_refused(trained, below):
    with pytest.raises(Mistake, match=r"model\.base_weights: network\.dora_wd acts on whole weights"):
        trained("a", model__base_weights=below, network__dora_wd=True)


def test_a_dora_from_a_file_needs_whole_weights_too(trained, below):
    dora = trained("dora", network__dora_wd=True, output__output_name="dora").file
    asked = {"model__base_weights": below, "network__weights": dora, "network__dim_from_weights": True}
    with pytest.raises(
        Mistake, match=r"model\.base_weights: the DoRA in network\.weights acts on whole weights"
    ):
        trained("a", **asked)
    trained("b", **{**asked, "network__weights": below})
