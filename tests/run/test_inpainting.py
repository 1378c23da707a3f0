"""Whole runs on a light model that is made for inpainting."""

import contextlib
import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lora_train.host import widened
from tests.tiny import Tiny, TinyHost


class Painter(Tiny):
    """Takes nine channels."""

    inpaints = True

    def __init__(self, *how):
        super().__init__(*how)
        old = self.parts["unet"].input_blocks["0"][0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            new = nn.Conv2d(9, len(old.weight), 3, padding=1).to(old.weight).requires_grad_(False)
        new.weight.data[:, :4] = old.weight
        self.parts["unet"].input_blocks["0"][0] = new

    def denoise(self, x_t, t, cond):
        grey = self.encode_images(torch.zeros(1, 3, 8, 8))
        return super().denoise(widened(x_t, cond, lambda h, w: grey.expand(1, 4, h, w)), t, cond)


class PainterHost(TinyHost):
    @contextlib.contextmanager
    def borrow(self, model, *, device, precision, waiting=lambda: None):
        waiting()
        dtypes = {"no": torch.float32, "bf16": torch.bfloat16}
        yield Painter("v" if model.v_parameterization else "epsilon", dtypes[precision])


def same(a, b) -> bool:
    one, two = load_file(a.file), load_file(b.file)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def lines(outcome) -> list[dict]:
    path = outcome.file.parent / "x-run" / "metrics.jsonl"
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "megabytes")} for line in found]


LIVELY = {
    "data__flip_aug": True, "data__validation_split": 0.4, "objective__noise_offset": 0.1,
    "network__dropout": 0.2,
}  # fmt: skip


@pytest.mark.parametrize("values", [{}, {"data__inpainting_masks": 2}, {"place__cache_latents": False}])
def test_a_resumed_run_is_the_run_that_never_stopped(trained, values):
    host, values = PainterHost(), {**LIVELY, **values}
    whole = trained("a", host=host, **values)
    stopped = trained("b", host=host, stop=4, **values)
    on = trained("b", host=host, place__resume=stopped.state, **values)
    assert same(whole, on)
    assert lines(whole) == lines(on)


def test_masks_are_drawn_anew_or_a_few_times(trained):
    host = PainterHost()
    anew, few, one = (
        trained(name, host=host, **({"data__inpainting_masks": n} if n else {}))
        for name, n in (("a", None), ("b", 2), ("c", 1))
    )
    assert not same(anew, few)
    assert not same(few, one)


def test_a_batch_of_three_is_three_of_one_accumulated(trained):
    host = PainterHost()
    one = trained("a", host=host, data__batch_size=6, lr__learning_rate=1e-3)
    six = trained("b", host=host, training__gradient_accumulation_steps=6, lr__learning_rate=1e-3)
    first, second = load_file(one.file), load_file(six.file)
    assert max((first[k] - second[k]).abs().max() for k in first) < 2e-6


def test_a_plain_model_learns_as_before(trained):
    assert same(trained("a"), trained("b", data__inpainting_masks=5))


def test_prompts_have_no_holes(trained):
    """A model made for inpainting then paints all of the picture."""
    words = {"objective__kind": "erase", "objective__target": "cat", "objective__instant": True}
    assert trained("a", host=PainterHost(), data__train_data_dir=None, **words).progress.step == 8
