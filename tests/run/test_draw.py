"""LoRAs that prompts name: found, worn for one picture, and off again."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from lora_train.adapters.file import save
from lora_train.adapters.lora import Lora
from lora_train.adapters.network import Network
from lora_train.errors import Mistake
from lora_train.prompts import Prompt
from lora_train.run.draw import Wardrobe, Worn, columns, noted, strengths
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


def test_a_sheet_wears_what_its_prompts_name(lent, folder):
    prompts = [Prompt("a cat<lora:eyes:1>", width=64, height=64, seed=1)]
    without = [Prompt("a cat<lora:eyes:0>", width=64, height=64, seed=1)]
    wanted = strengths(folder / "style.safetensors", [0, 1])
    pages = [columns(lent, wanted, p, [folder]) for p in (prompts, without)]
    assert pages[0].size == pages[1].size
    assert pages[0].tobytes() != pages[1].tobytes()


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
