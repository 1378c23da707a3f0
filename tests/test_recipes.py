"""Settings as people have published them run; only paths, sizes and numbers of steps are filled in."""

import json
import pathlib
import shlex

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

pytest.importorskip("diffusers")

from lora_train.cli import main
from tests.hosts import tiny_checkpoints

RECIPES = pathlib.Path(__file__).parent / "recipes"
DEMO = pathlib.Path(__file__).parents[1] / "demo" / "checkpoint" / "demo.safetensors"
PROMPTS = {  # sd-scripts' three formats
    "txt": "a cat --n dog --w 64 --h 64 --d 1 --l 5 --s 2\n# a remark\na house --w 64 --h 64 --s 2\n",
    "toml": '[prompt]\nwidth = 64\nheight = 64\nsample_steps = 2\n[[prompt.subset]]\nprompt = "a cat"\n'
    'negative_prompt = "dog"\nseed = 1\nscale = 5\n[[prompt.subset]]\nprompt = "a house"\n',
    "json": json.dumps(
        [
            {"prompt": "a cat", "negative_prompt": "dog", "width": 64, "height": 64, "seed": 1, "scale": 5,
             "sample_steps": 2},
            {"prompt": "a house", "width": 64, "height": 64, "sample_steps": 2},
        ]
    ),
}  # fmt: skip


def pictures(folder: pathlib.Path, count: int, size: tuple[int, int] = (96, 64)) -> pathlib.Path:
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = np.random.default_rng([i, *folder.name.encode()]).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"thing {i}, red, big", encoding="utf-8")
    return folder


@pytest.fixture
def places(tmp_path):
    """What stands in a recipe in braces -> what is filled in."""
    pictures(tmp_path / "pictures" / "2_cat", 2)
    pictures(tmp_path / "reg" / "1_animal", 2)
    found = {
        "model": DEMO, "pictures": tmp_path / "pictures", "reg": tmp_path / "reg", "name": "x", "steps": 1,
        "size": "384,384",
        "output": tmp_path / "out", "logs": tmp_path / "logs", "folder": tmp_path / "pictures" / "2_cat",
        "more": pictures(tmp_path / "dogs", 1), "prior": tmp_path / "reg" / "1_animal",
    }  # fmt: skip
    (tmp_path / "settings.toml").write_text(filled("settings.toml", found), encoding="utf-8")
    return {**found, "settings.toml": tmp_path / "settings.toml"}


def filled(name: str, places: dict[str, object]) -> str:
    text = (RECIPES / name).read_text(encoding="utf-8")
    for word, value in places.items():
        text = text.replace(f"{{{word}}}", str(value))
    return text


def trained(words: list[str], places: dict[str, object], caplog) -> tuple[dict[str, str], list[str]]:
    """Metadata of what was saved, and the lines that were said."""
    with caplog.at_level("INFO"):
        assert main(["train", *words]) == 0, caplog.text
    with safe_open(places["output"] / "x.safetensors", "pt") as file:
        keys = list(file.keys())
        assert all(bool(file.get_tensor(key).isfinite().all()) for key in keys)
        return {**file.metadata(), "keys": " ".join(keys)}, caplog.messages


def said(lines: list[str], *words: str) -> bool:
    return any(all(word in line for word in words) for line in lines)


@pytest.mark.slow
def test_the_readme_of_train_network(places, caplog):
    texts, lines = trained(shlex.split(filled("adamw8bit.txt", places)), places, caplog)
    assert texts["ss_steps"] == "1"
    assert said(lines, "xformers has no effect here")
    assert said(lines, "fp16", "float32 is used instead") or texts["ss_mixed_precision"] == "fp16"
    assert said(lines, "8") or "8bit" in texts["ss_optimizer"].lower()


@pytest.mark.slow
def test_the_example_with_color_aug(places, caplog):
    texts, lines = trained(shlex.split(filled("color_aug.txt", places)), places, caplog)
    assert texts["ss_cache_latents"] == "False"
    assert (places["output"] / "x-000001-state").is_dir() or list(places["output"].rglob("*-state"))
    assert said(lines, "xformers has no effect here")


@pytest.mark.slow
def test_sdxl_with_lycoris_and_25_block_dims(places, tmp_path, caplog):
    model = tiny_checkpoints.write(tmp_path / "tiny_sdxl.safetensors", "sdxl")
    texts, _ = trained(shlex.split(filled("sdxl_lycoris.txt", {**places, "model": model})), places, caplog)
    assert texts["ss_base_model_version"] == "sdxl_base_v1-0"
    assert "block_dims" in texts["ss_network_args"]
    assert "lora_unet_input_blocks_4_1_proj_in.lora_down.weight" in texts["keys"]


@pytest.mark.slow
def test_the_json_of_kohya_ss(places, tmp_path, caplog):
    file = tmp_path / "gui.json"
    file.write_text(filled("kohya_ss.json", places), encoding="utf-8")
    texts, lines = trained(["--config_file", str(file)], places, caplog)
    assert (texts["ss_network_dim"], texts["ss_network_alpha"]) == ("16", "1.0")
    assert "adafactor" in texts["ss_optimizer"].lower()
    assert said(lines, "of kohya_ss' own form, without effect here")


@pytest.mark.parametrize("form", PROMPTS)
def test_prompts_in_three_formats(form, places, tmp_path, caplog):
    file = tmp_path / f"prompts.{form}"
    file.write_text(PROMPTS[form], encoding="utf-8")
    words = ["--pretrained_model_name_or_path", DEMO, "--train_data_dir", places["pictures"],
             "--resolution", 64, "--max_train_steps", 1,
             "--output_dir", places["output"], "--output_name", "x",
             "--sample_every_n_steps", 1, "--sample_prompts", file]  # fmt: skip
    trained([str(word) for word in words], places, caplog)
    drawn = sorted(places["output"].rglob("sample/*.png"))
    assert len(drawn) == 2
    assert [path.stem.endswith("_1") for path in drawn] == [True, False], "with the seed in the name"


def test_a_concepts_list_of_the_dreambooth_extension(places, tmp_path, caplog):
    concepts = [
        {
            "instance_data_dir": str(places["folder"]), "class_data_dir": str(places["prior"]),
            "instance_prompt": "photo of sks cat", "class_prompt": "photo of cat", "instance_token": "",
            "class_token": "", "num_class_images": 0, "num_class_images_per": 0, "save_sample_prompt": "",
            "save_sample_negative_prompt": "", "n_save_sample": 1, "sample_seed": -1,
            "save_guidance_scale": 7.5, "save_infer_steps": 2, "class_negative_prompt": "",
            "class_guidance_scale": 7.5, "class_infer_steps": 40,
        },
        {
            "instance_data_dir": str(places["more"]), "class_data_dir": "", "instance_prompt": "[filewords]",
            "class_prompt": "[filewords]", "instance_token": "zwx", "class_token": "dog",
            "num_class_images": 0, "num_class_images_per": 0,
        },
    ]  # fmt: skip
    file = tmp_path / "concepts.json"
    file.write_text(json.dumps(concepts), encoding="utf-8")
    words = ["--pretrained_model_name_or_path", DEMO, "--config_file", file, "--resolution", 64,
             "--max_train_steps", 2, "--output_dir", places["output"], "--output_name", "x"]  # fmt: skip
    texts, _ = trained([str(word) for word in words], places, caplog)
    assert "sks" in texts["ss_tag_frequency"] or "sks" in texts["lora_train_job"]
