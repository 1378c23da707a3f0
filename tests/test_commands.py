"""Commands on real files: every mistake of a person gets one answer, and leaves nothing behind."""

import importlib.util
import os
import pathlib
import shutil

import numpy
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lora_train.cli import main
from lora_train.data.pictures import ENDINGS
from lora_train.train.events import Watcher
from tests.tiny import TinyHost

REFERENCE = pathlib.Path(__file__).parents[1].parent / "shared" / "reference"
MODEL = REFERENCE / "tiny_sd1.safetensors"


@pytest.fixture
def pictures(tmp_path) -> pathlib.Path:
    """Two pictures of 64 x 64, twice each."""
    folder = tmp_path / "pictures" / "2_thing"
    folder.mkdir(parents=True)
    for name in "ab":
        pixels = numpy.random.default_rng(list(name.encode())).integers(0, 256, (64, 64, 3), numpy.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a {name}", encoding="utf-8")
    return folder.parent


@pytest.fixture
def words(tmp_path, pictures):
    """words(**others): a training of one step; a later option counts, None leaves one out."""

    def words(*more: object, **others: object) -> list[str]:
        usual = {
            "pretrained_model_name_or_path": "model.safetensors", "train_data_dir": pictures,
            "resolution": 64, "max_train_steps": 1, "seed": 1, "output_dir": tmp_path / "output",
            "output_name": "x",
        }  # fmt: skip
        given = {name: value for name, value in {**usual, **others}.items() if value is not None}
        return ["train", *(str(w) for n, v in given.items() for w in (f"--{n}", v)), *map(str, more)]

    return words


@pytest.fixture
def light(monkeypatch):
    """The model is a small one of torch alone, whatever is asked for."""
    if importlib.util.find_spec("tqdm") is None:  # on the floor; the bar is not what is tested
        monkeypatch.setattr("lora_train.run.watchers.Bar", Watcher)
    monkeypatch.setattr("lora_train.hosts.standalone.host.StandaloneHost", TinyHost)


@pytest.fixture
def heavy():
    """The model is read from files."""
    pytest.importorskip("diffusers", reason="the standalone host needs it")


def files(folder: pathlib.Path) -> dict[pathlib.Path, int]:
    """When each was written. Cached latents do not count: those of good pictures can be used next time."""
    kept = [path for path in folder.rglob("*") if "latents" not in path.relative_to(folder).parts]
    return {path: path.stat().st_mtime_ns for path in kept}


@pytest.fixture
def answer(tmp_path, capsys, caplog):
    """answer(words): the message; no traceback is beside it, and nothing but latents in the output folder."""

    def answer(words: list[str], *, folder: pathlib.Path = tmp_path / "output") -> str:
        before = files(folder)
        capsys.readouterr()
        assert main(words) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert "Traceback" not in said.err + caplog.text
        assert files(folder) == before
        return said.err.removesuffix("\n")

    return answer


# ── pictures and folders ──────────────────────────────────────────────────────────────────────────────────


def test_an_empty_folder(light, words, answer, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert answer(words(train_data_dir=empty)) == (
        f"data.train_data_dir = {empty}: no pictures in it; expected {' '.join(ENDINGS)}"
    )


def test_no_folder(light, words, answer, tmp_path):
    text = f"data.train_data_dir = {tmp_path / 'none'}: expected a folder"
    assert answer(words(train_data_dir=tmp_path / "none")) == text


def test_a_file_for_a_folder(light, words, answer, pictures):
    file = pictures / "2_thing" / "a.png"
    assert answer(words(train_data_dir=file)) == f"data.train_data_dir = {file}: expected a folder"


def test_no_folder_given(light, words, answer):
    text = "data.train_data_dir: expected the folder of the pictures to learn from"
    assert answer(words(train_data_dir=None)) == text


def test_a_numbered_folder_without_pictures(light, words, answer, pictures):
    (pictures / "3_none").mkdir()
    assert answer(words()).startswith(f"{pictures / '3_none'}: no pictures in it; expected .png")


@pytest.mark.parametrize("more", [[], ["--cache_latents", "false"], ["--cache_latents_to_disk"]], ids=str)
@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda data: b"", "an empty file; replace it or take it out of the folder"),
        (lambda data: b"none" * 99, "not a picture, or damaged; replace it or take it out of the folder"),
        (lambda data: data[: len(data) // 2], "damaged or cut off (image file is truncated); replace it or "
         "take it out of the folder"),
    ],
    ids=["zero bytes", "unreadable", "truncated"],
)  # fmt: skip
def test_a_picture_that_cannot_be_read(light, words, answer, pictures, damage, text, more):
    file = pictures / "2_thing" / "b.png"
    file.write_bytes(damage(file.read_bytes()))
    assert answer(words(*more)) == f"{file}: {text}"


def test_a_caption_in_another_encoding(light, words, answer, pictures):
    file = pictures / "2_thing" / "a.txt"
    file.write_bytes("müller".encode("latin-1"))
    assert answer(words()).startswith(f"{file}: expected UTF-8 text; it looks like Windows-1252")


def test_all_that_is_wrong_with_pictures_is_told_at_once(light, words, answer, pictures):
    (pictures / "2_thing" / "a.txt").write_bytes(b"\xff\xfe\xfd")
    (pictures / "2_thing" / "b.png").write_bytes(b"")
    assert len(answer(words()).splitlines()) == 2


# ── output ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_folder_that_cannot_be_made(light, words, answer, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    folder = tmp_path / "file" / "output"
    text = f"output.output_dir = {folder}: expected a folder that can be written to (Not a directory)"
    assert answer(words(output_dir=folder)) == text


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(light, words, answer, tmp_path):
    folder = tmp_path / "output"
    folder.mkdir(mode=0o500)
    text = f"output.output_dir = {folder}: expected a folder that can be written to (Permission denied)"
    assert answer(words()) == text


@pytest.mark.parametrize(
    ("name", "lost"), [("a/b", "/"), ("../a", "/"), ("a:b?", ": ?"), (" . ", "the blanks")]
)
def test_a_name_that_is_no_file_name(light, words, answer, name, lost):
    text = f"output.output_name = {name}: expected a file name; leave out {lost}"
    assert answer(words(output_name=name)) == text


# ── models ────────────────────────────────────────────────────────────────────────────────────────────────


def zeros(*names: str, shape: tuple[int, ...] = (1,)) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape) for name in names}


UNET, LORA = "model.diffusion_model.input_blocks.0.0.weight", "lora_unet_mid_block_attentions_0_proj_in"
EXPECTED = (
    "; expected an SD 1.x, SD 2.x or SDXL checkpoint (.safetensors, .ckpt) or a diffusers folder of one"
)
MODELS = {
    "refiner": (
        {**zeros("conditioner.embedders.0.model.ln_final.weight", UNET.replace("input_blocks", "label_emb")),
         **zeros(UNET, shape=(384, 4, 3, 3))},
        f"is SDXL's refiner, not its base model{EXPECTED}"),
    "VAE": (
        zeros("encoder.down.0.block.0.conv1.weight", "decoder.conv_in.weight"),
        f"is an autoencoder (VAE) alone{EXPECTED}"),
    "LoRA": (
        zeros(f"{LORA}.lora_down.weight", f"{LORA}.lora_up.weight", f"{LORA}.alpha"),
        f"is a LoRA or another adapter{EXPECTED}"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_of_another_kind(heavy, words, answer, tmp_path, kind):
    tensors, text = MODELS[kind]
    file = tmp_path / "model.safetensors"
    save_file(tensors, file)
    assert answer(words(pretrained_model_name_or_path=file)) == (
        f"model.pretrained_model_name_or_path = {file}: {text}"
    )


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda data: data[:-100], "is cut short, "),
        (lambda data: b"", "is empty; download or copy it again"),
        (lambda data: b"hello", "is not a .safetensors file"),
        (lambda data: b"<html>" * 99, "is not a .safetensors file"),
    ],
)
def test_a_model_that_cannot_be_read(heavy, words, answer, tmp_path, damage, text):
    file = tmp_path / "model.safetensors"
    save_file(zeros(UNET, shape=(320, 4, 3, 3)), file)
    file.write_bytes(damage(file.read_bytes()))
    said = answer(words(pretrained_model_name_or_path=file))
    assert said.startswith(f"model.pretrained_model_name_or_path = {file}: {text}")
    assert len(said.splitlines()) == 1


def test_no_such_model(heavy, words, answer, tmp_path, pictures):
    for path, text in (
        (tmp_path / "none.safetensors", "no such file"),
        (pictures, "a folder without model_index"),
    ):
        said = answer(words(pretrained_model_name_or_path=path))
        assert said.startswith(f"model.pretrained_model_name_or_path = {path}: {text}")


def test_no_model_given(light, words, answer):
    text = "model.pretrained_model_name_or_path: expected a checkpoint to train on"
    assert answer(words(pretrained_model_name_or_path=None)) == text


def test_half_precision_on_a_cpu(light, words, answer):
    assert answer(words(mixed_precision="fp16", device="cpu")) == (
        "training.mixed_precision = fp16: expected a CUDA device; on a CPU use no or bf16"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there(light, words, answer):
    assert answer(words(device="cuda")).startswith(
        "place.device = cuda: expected a CUDA device and found none"
    )


# ── files to go on from ───────────────────────────────────────────────────────────────────────────────────


FOREIGN = {
    "whole checkpoint": zeros(UNET),
    "LoRA for another model, as diffusers spells it": zeros("transformer.blocks.0.attn.to_q.lora_A.weight"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_adapter_file(light, words, answer, tmp_path, kind):
    file = tmp_path / "other.safetensors"
    save_file(FOREIGN[kind], file)
    expected = "expected a LoRA for SD 1.x, SD 2.x, SDXL"
    assert answer(words(network_weights=file)) == f"{file}: {expected}; this is a {kind}"


def test_no_adapter_file(light, words, answer, tmp_path):
    assert answer(words(network_weights=tmp_path / "none")) == f"{tmp_path / 'none'}: no such file"
    file = tmp_path / "text.safetensors"
    file.write_text("hello", encoding="utf-8")
    assert answer(words(network_weights=file)).startswith(f"{file}: is not a .safetensors file")


@pytest.fixture
def state(light, words, tmp_path) -> pathlib.Path:
    """What a run of two steps left to go on from."""
    assert main(words("--save_state", max_train_steps=2, output_dir=tmp_path / "before")) == 0
    return tmp_path / "before" / "x-state"


def test_a_state_that_is_none(light, words, answer, tmp_path, pictures):
    for folder in (pictures, tmp_path / "none", pictures / "2_thing" / "a.png"):
        assert answer(words(resume=folder)).startswith(f"place.resume = {folder}: expected a state folder")


def test_a_state_that_is_damaged(state, words, answer):
    file = state / "state.safetensors"
    file.write_bytes(file.read_bytes()[:500])
    assert answer(words(resume=state)).startswith(
        f"place.resume = {state}: expected a state that lora-train saved"
    )


def test_a_state_of_other_settings(state, words, answer):
    lines = answer(words(resume=state, network_dim=8, seed=2)).splitlines()
    assert lines == [
        "network.dim = 8: the state was saved with 4",
        "training.seed = 2: the state was saved with 1",
        "resume with the state's settings, or start anew with network_weights",
    ]


def test_a_state_of_other_pictures(state, words, answer, pictures):
    shutil.copy(pictures / "2_thing" / "a.png", pictures / "2_thing" / "c.png")
    assert answer(words(resume=state, max_train_steps=3)).startswith(
        f"place.resume = {state}: the state was saved with 4 samples an epoch, and now there are 6"
    )


def test_a_state_alone_is_enough_to_go_on(state, tmp_path):
    folder = tmp_path / "before"
    (folder / "x.safetensors").unlink()
    assert main(["train", "--resume", str(state), "--max_train_steps", "3"]) == 0
    assert (folder / "x.safetensors").exists()
    assert len((folder / "x-run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) == 3


def test_a_file_without_a_job_to_repeat(light, words, answer, tmp_path):
    file = tmp_path / "other.safetensors"
    save_file(zeros(f"{LORA}.lora_down.weight", shape=(1, 1)), file)
    assert answer(words("--from", file)).startswith(f"from = {file}: expected a file that lora-train wrote")


def test_a_saved_file_repeats_its_run(state, words, tmp_path):
    before = tmp_path / "before" / "x.safetensors"
    again = words("--from", before, seed=None, max_train_steps=None, resolution=None)
    assert main(again) == 0
    tensors = [path.read_bytes() for path in (before, tmp_path / "output" / "x.safetensors")]
    sizes = [8 + int.from_bytes(data[:8], "little") for data in tensors]
    assert tensors[0][sizes[0] :] == tensors[1][sizes[1] :]


# ── samples, prompts ──────────────────────────────────────────────────────────────────────────────────────


def test_prompts_that_cannot_be_read(light, words, answer, tmp_path):
    file = tmp_path / "prompts.txt"
    asked = words(sample_prompts=file, sample_every_n_steps=1)
    assert answer(asked) == f"{file}: expected a text file of prompts (No such file or directory)"
    file.write_text("a cat\na dog --zz 3\n", encoding="utf-8")
    assert answer(asked).startswith(f"{file}, line 2: --zz: no such flag")
    file.write_text("# nothing\n", encoding="utf-8")
    assert answer(asked) == f"{file}: no prompt in it; expected one a line"


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ([], "prompt: expected --prompt or --from_file"),
        (["--prompt", "a cat --zz 3"], "--zz: no such flag"),
        (["--prompt", "a cat", "--sampler", "none"], "none: no such sampler"),
        (
            ["--prompt", "a cat", "--network_weights", "a", "--network_mul", "1", "2"],
            "network_mul: expected 1",
        ),
        (["--prompt", "a cat", "--network_weights", "a", "--network_mul", "x"], "'x': expected numbers"),
        (["--prompt", "a cat", "--device", "tpu"], "place.device = tpu: expected auto, cpu or cuda"),
        (["--prompt", "a cat", "--nothing"], "nothing: no such setting"),
    ],
)
def test_mistakes_of_drawing(light, answer, tmp_path, more, text):
    asked = ["sample", "--pretrained_model_name_or_path", "m", "--outdir", str(tmp_path / "output"), *more]
    assert answer(asked).startswith(text)


def test_a_sheet_without_a_file_to_draw(light, answer, tmp_path):
    asked = [
        "plot",
        "--pretrained_model_name_or_path",
        "m",
        "--prompt",
        "a",
        "--output",
        str(tmp_path / "output" / "p"),
    ]
    assert answer(asked) == "network_weights: expected a LoRA file to plot"
    asked += ["--network_weights", str(tmp_path / "none.safetensors")]
    assert answer(asked) == f"{tmp_path / 'none.safetensors'}: no such file"
    assert "strength = '0-1': expected numbers such as" in answer([*asked, "--strengths", "0-1"])


@pytest.mark.skipif(not MODEL.exists(), reason="../shared/reference is not on this machine")
def test_a_lora_is_trained_sampled_and_plotted(heavy, words, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat --w 64 --h 64 --d 1 --s 1 --l 1\n", encoding="utf-8")
    folder, file = tmp_path / "output", tmp_path / "output" / "x.safetensors"
    assert (
        main(words(pretrained_model_name_or_path=MODEL, sample_prompts=prompts, sample_every_n_steps=1)) == 0
    )
    assert len(list((folder / "sample").glob("x_000001_00_*_1.png"))) == 1
    model = ["--pretrained_model_name_or_path", str(MODEL)]
    drawn = [*model, "--from_file", str(prompts), "--network_weights", str(file)]
    assert main(["sample", *drawn, "--network_mul", "0.5", "--outdir", str(folder)]) == 0
    assert Image.open(folder / "000_1.png").size == (64, 64)
    flags = "--w 64 --h 64 --d 1 --s 1 --l 1"
    named = [*model, "--prompt", f"a cat<lora:x:0.5> {flags}", "--lora_dir", str(folder)]
    assert main(["sample", *named, "--outdir", str(tmp_path / "named")]) == 0
    assert (
        Image.open(tmp_path / "named" / "000_1.png").tobytes() == Image.open(folder / "000_1.png").tobytes()
    )
    lost = [*model, "--prompt", f"a cat<lora:y:0.5> {flags}", "--network_weights", str(file)]
    assert main(["plot", *lost, "--output", str(folder / "lost.png")]) == 2
    assert not (folder / "lost.png").exists()
    assert main(["plot", *drawn, "--strengths", "1", "--output", str(folder / "sheet.png")]) == 0
    assert Image.open(folder / "sheet.png").width > 128
