"""LoRAs that prompts name: found, worn for one picture, and off again."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image

from lora_train.adapters.file import save
from lora_train.adapters.lora import Lora
from lora_train.adapters.network import Network
from lora_train.blocks import BlockWeights
from lora_train.errors import Mistake
from lora_train.prompts import Prompt
from lora_train.run.draw import Wardrobe, Worn, noted
from lora_train.spelling import Book
from tests.run.test_adapters_in_a_run import Lender
from tests.tiny import Tiny


@pytest.fixture
def lent():
    return Tiny()


@pytest.fixture
def folder(tmp_path, lent):
    """Two LoRAs, of which one lies deeper."""
    for seed, path in enumerate((tmp_path / "style.safetensors", tmp_path / "more" / "eyes.safetensors")):
        path.parent.mkdir(exist_ok=True)
        network = Network(Lora(dim=2), lent.layers())
        generator = torch.Generator().manual_seed(seed)
        for param in network.parameters():
            param.data.normal_(0, 0.3, generator=generator)
        save(network, path, metadata={}, dtype=torch.float32)
    return tmp_path


def drawn(lent, folder, text: str, worn=None) -> bytes:
    return Wardrobe(lent, [folder]).sample(Prompt(text, width=64, height=64, seed=1), worn).tobytes()


def with_parts(lent, file, text: str, te: float, unet: float) -> bytes:
    """By hand."""
    (network,) = Worn(lent, [file]).networks
    network.weigh(te, unet)
    with network.attached():
        return lent.sample(Prompt(text, width=64, height=64, seed=1)).tobytes()


@pytest.mark.parametrize(
    ("tag", "te", "unet"),
    [(":0.5", 0.5, 0.5), (":0.5:1.5", 0.5, 1.5), (":te=0:unet=1", 0, 1), (":1:0", 1, 0), ("", 1, 1)],
)
def test_a_named_lora_is_on_with_its_strengths(lent, folder, tag, te, unet):
    plain = lent.sample(Prompt("a cat", width=64, height=64, seed=1)).tobytes()
    by_name = drawn(lent, folder, f"a cat<lora:style{tag}>")
    assert by_name == with_parts(lent, folder / "style.safetensors", "a cat", te, unet)
    assert by_name != plain
    assert lent.sample(Prompt("a cat", width=64, height=64, seed=1)).tobytes() == plain  # off again


def test_at_strength_0_the_picture_is_the_bare_models(lent, folder):
    assert drawn(lent, folder, "a cat<lora:style:0>") == drawn(lent, folder, "a cat")


def test_several_are_worn_together_in_any_order(lent, folder):
    both = drawn(lent, folder, "a cat<lora:style:0.5><lora:eyes:0.3>")
    with Worn(lent, [folder / "style.safetensors", folder / "more" / "eyes.safetensors"]).at([0.5, 0.3]):
        assert both == lent.sample(Prompt("a cat", width=64, height=64, seed=1)).tobytes()
    assert both != drawn(lent, folder, "a cat<lora:style:0.5>")
    twice = drawn(lent, folder, "<lora:style:0.25>a cat<lora:style:0.25>")
    assert twice == drawn(lent, folder, "a cat<lora:style:0.5>")


def test_a_name_that_is_not_there_is_refused_with_what_is(lent, folder):
    with pytest.raises(Mistake) as e:
        Wardrobe(lent, [folder]).read([Prompt("<lora:stile>"), Prompt("<lora:zz:1>")], ["own"])
    first, second = str(e.value).splitlines()
    assert first == (
        f"<lora:stile>: no stile.safetensors in {folder}; did you mean style?; there: eyes, own, style"
    )
    assert second == f"<lora:zz>: no zz.safetensors in {folder}; there: eyes, own, style"
    with pytest.raises(Mistake, match="nor any other LoRA"):
        Wardrobe(lent, [folder / "none"]).read([Prompt("<lora:a>")])


def test_what_is_worn_already_gets_the_prompts_strengths_for_its_picture(lent, folder):
    worn = Worn(lent, [folder / "style.safetensors"])
    with worn.at([0.5]) as on:
        one = drawn(lent, folder / "none", "a cat<lora:style:1:2>", on)
        whole = drawn(lent, folder / "none", "a cat", on)
    assert one == with_parts(lent, folder / "style.safetensors", "a cat", 0.5, 1.0)
    assert whole == with_parts(lent, folder / "style.safetensors", "a cat", 0.5, 0.5)


def test_while_training_the_name_of_the_result_means_the_running_network(trained, tmp_path, folder):
    seen = []

    class Seen(Tiny):
        def sample(self, prompt):
            assert "lora" not in prompt.prompt
            seen.append(super().sample(prompt).tobytes())
            return super().sample(prompt)

    (tmp_path / "a").mkdir()
    (folder / "style.safetensors").replace(tmp_path / "a" / "style.safetensors")
    tags = ("<lora:x:0>", "", "<lora:x:1>", "<lora:x:0.5:0>", "<lora:style:1>")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"a cat{tag} --w 64 --h 64 --d 1\n" for tag in tags), encoding="utf-8")
    trained("a", host=Lender(Seen()), output__sample_prompts=prompts, output__sample_every_n_steps=8)
    bare = Tiny().sample(Prompt("a cat", width=64, height=64, seed=1)).tobytes()
    assert seen[0] == bare
    assert seen[1] == seen[2]
    assert len({*seen, bare}) == 4


def test_a_name_that_is_not_there_is_refused_before_training(trained, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat<lora:y:1> --w 64 --h 64\n", encoding="utf-8")
    with pytest.raises(Mistake, match=r"<lora:y>: .*; there: x$"):
        trained("a", output__sample_prompts=prompts, output__sample_every_n_steps=8)
    assert not list((tmp_path / "a").glob("*.safetensors"))


# ── blocks and steps ────────────────────────────────────────────────────────────────────────────────────────

WEIGHTS = "0.5,0,2," + ",".join(["1"] * 9)  # IN04 at 0, IN05 at 2
EACH = BlockWeights.parse(WEIGHTS)


class Stepping(Tiny):
    """Draws in five steps; as the WebUI says, the first two of them are 0."""

    def sample(self, prompt, stepped=None):
        whole = np.zeros((64, 64, 3))
        for step in (0, 0, 1, 2, 3):
            if stepped is not None:
                stepped(step)
            whole += np.asarray(super().sample(prompt), float) * (1 + step)
        return Image.fromarray((whole / 8).astype("uint8"))


def weighed_by_hand(lent, file, te, unet, blocks) -> bytes:
    """In the weights of another model."""
    (network,) = Worn(lent, [file]).networks
    other = Tiny()
    there = {layer.key: layer for layer in other.layers()}
    for key, layer in network.layers.items():
        times = blocks.strength(layer.part, layer.path) * (unet if layer.part == "unet" else te)
        there[key].weight().data.add_(times * network.delta(key))
    return np.asarray(other.sample(Prompt("a cat", width=64, height=64, seed=1)), int)


def test_block_weights_in_a_prompt_are_a_file_baked_so(lent, folder):
    """To one in 255 of a picture; and off again after it."""
    file = folder / "style.safetensors"
    baked = weighed_by_hand(lent, file, 0.7, 1.2, EACH)
    plain = drawn(lent, folder, "a cat")
    (folder / "lbwpresets.txt").write_text(f"MINE:{WEIGHTS}\n")
    for tag in (f":0.7:1.2:lbw={WEIGHTS}", ":0.7:lbw=mine:unet=1.2"):
        found = np.frombuffer(drawn(lent, folder, f"a cat<lora:style{tag}>"), np.uint8).reshape(baked.shape)
        assert abs(found - baked).max() <= 1
        assert found.tobytes() not in (plain, drawn(lent, folder, "a cat<lora:style:0.7:1.2>"))
        assert drawn(lent, folder, "a cat") == plain
    (folder / "elempresets.txt").write_text("NOATTN::attn:0\n")
    off = weighed_by_hand(lent, file, 1, 1, BlockWeights.parse("ALL|:attn:0"))
    found = np.frombuffer(drawn(lent, folder, "a cat<lora:style:1:lbwe=NOATTN>"), np.uint8)
    assert abs(found.reshape(off.shape) - off).max() <= 1


def test_twice_the_same_lora_with_other_blocks_adds_up(lent, folder):
    ones = ",".join(["1"] * 26)
    ins, outs = "1," * 13 + "0," * 12 + "0", "0," * 13 + "1," * 12 + "1"
    both = drawn(lent, folder, f"a cat<lora:style:0.5:lbw={ins}><lora:style:0.5:lbw={outs}>")
    assert both == drawn(lent, folder, f"a cat<lora:style:0.5:lbw={ones}>")


def test_random_blocks_are_those_of_the_pictures_seed(lent, folder):
    text = "a cat<lora:style:1:lbw=" + ",".join(["R"] * 12) + ">"
    wardrobe, seeded = Wardrobe(lent, [folder]), Prompt(text, width=64, height=64, seed=1)
    first = wardrobe.sample(seeded).tobytes()
    assert first == wardrobe.sample(seeded).tobytes()
    weights = Book().weights(",".join(["R"] * 12), draw=random.Random(1))
    baked = weighed_by_hand(lent, folder / "style.safetensors", 1, 1, weights)
    assert abs(np.frombuffer(first, np.uint8).reshape(baked.shape) - baked).max() <= 1


def test_start_and_stop_switch_the_unet_alone(folder):
    """Against a picture put together by hand of those of each step."""
    lent, prompt = Stepping(), Prompt("a cat", width=64, height=64, seed=1)
    (network,) = Worn(lent, [folder / "style.safetensors"]).networks

    def whole(acting) -> np.ndarray:
        found = np.zeros((64, 64, 3))
        for acts, step in zip(acting, (0, 0, 1, 2, 3), strict=True):
            network.weigh(1, float(acts))
            with network.attached():
                found += np.asarray(Tiny.sample(lent, prompt), float) * (1 + step)
        return (found / 8).astype("uint8").tobytes()

    for tag, acting in (
        (":start=3", [0, 0, 0, 1, 1]),
        (":stop=3", [1, 1, 1, 0, 0]),
        (":step=2-4", [0, 0, 1, 1, 0]),
        (":start=1", [1, 1, 1, 1, 1]),
        (":stop=1", [0, 0, 0, 0, 0]),
    ):
        assert drawn(lent, folder, f"a cat<lora:style:1{tag}>") == whole(acting), tag
    assert drawn(lent, folder, "a cat<lora:style:1>") == whole([1] * 5)


def test_what_is_on_already_keeps_its_strengths_with_blocks_and_steps(folder):
    lent = Stepping()
    worn = Worn(lent, [folder / "style.safetensors"])
    with worn.at([0.5]) as on:
        tagged = drawn(lent, folder / "none", f"a cat<lora:style:1:2:lbw={WEIGHTS}:start=3>", on)
        assert set(on["style"].strengths.values()) == {0.5}
    assert tagged == drawn(lent, folder, f"a cat<lora:style:0.5:1:lbw={WEIGHTS}:start=3>")


def test_block_weights_that_cannot_be_read_are_refused_before(lent, folder):
    with pytest.raises(Mistake) as e:
        Wardrobe(lent, [folder]).read([Prompt("<lora:style:1:lbw=MINE>"), Prompt("<lora:zz:1:lbw=1,2>")])
    assert [line.partition(":")[0] for line in str(e.value).splitlines()] == ["<lora", "<lora", "<lora"]
    assert "<lora:style>: MINE: expected 12, 17, 20 or 26 values" in str(e.value)
    assert "<lora:zz>: no zz.safetensors" in str(e.value)


@pytest.mark.parametrize(
    ("prompt", "written", "told"),
    [
        ("a cat", "a cat\nSteps: 3", "a cat<lora:x:1>\nSteps: 3"),
        ("a cat<lora:x:0.5>", "a cat\nSteps: 3", "a cat<lora:x:0.5>\nSteps: 3"),
        ("a cat<lora:y:1>", "a cat\nSteps: 3", "a cat<lora:y:1><lora:x:1>\nSteps: 3"),
        ("a cat", "a styled cat\nSteps: 3", "a styled cat\nSteps: 3"),
    ],
)
def test_the_infotext_of_a_sample_names_the_lora_that_was_on(prompt, written, told):
    image = Image.new("RGB", (8, 8))
    image.info["parameters"] = written
    assert noted(image, Prompt(prompt), "x").info["parameters"] == told
    assert "parameters" not in noted(Image.new("RGB", (8, 8)), Prompt(prompt), "x").info
