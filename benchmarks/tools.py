"""Tools on files of full size, ours and sd-scripts', each in a process of its own: time, peak memory, error.

    python benchmarks/tools.py resize --peer /path/to/sd-scripts --size sd1 sdxl

Files are of random weights, made in the user's cache folder. What sd-scripts imports and this machine has not
is stood in for by nothing at all, as long as the script does not use it.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import models  # noqa: E402
from benchmarks.apart import Ran, ours, theirs  # noqa: E402
from benchmarks.gpu import SD15, SDXL  # noqa: E402
from benchmarks.models import cache  # noqa: E402
from lora_train.models.written import write  # noqa: E402
from lora_train.names import as_conv, file_key, text_path, unet_to_ldm, vae_to_ldm  # noqa: E402
from lora_train.tools.base import Base  # noqa: E402

ARCHS = {
    "sd1": (SD15, {"te1": (768, 3072, 12)}),
    "sdxl": (SDXL, {"te1": (768, 3072, 12), "te2": (1280, 5120, 32)}),
}
LINEAR = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv")


def shapes(arch: str, *, conv: bool) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Part, path and shape of all layers that a LoRA is put on."""
    import diffusers

    config, texts = ARCHS[arch]
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**config)
    for name, module in unet.named_modules():
        taken = name.endswith(LINEAR) or (conv and name.endswith(CONVOLUTIONS))
        if taken and hasattr(module, "weight"):
            yield "unet", unet_to_ldm(name, arch), tuple(module.weight.shape)
    for part, (width, wide, count) in texts.items():
        for i in range(count):
            for piece in ("q_proj", "k_proj", "v_proj", "out_proj"):
                yield part, f"encoder.layers.{i}.self_attn.{piece}", (width, width)
            yield part, f"encoder.layers.{i}.mlp.fc1", (wide, width)
            yield part, f"encoder.layers.{i}.mlp.fc2", (width, wide)


@dataclasses.dataclass(frozen=True)
class Case:
    """What files are like, and who else works on them."""

    arch: str
    conv: bool  # whether there are convolutions
    once: bool  # one layer of each shape: ratios of a full file in a fraction of its time
    peer: pathlib.Path | None
    out: pathlib.Path
    precision: str = "float"  # that sd-scripts merges in; ours always computes in float32

    def layers(self) -> list[tuple[str, str, tuple[int, ...]]]:
        every = [*shapes(self.arch, conv=self.conv)]
        return [*{shape: row for row in every for shape in [row[2]]}.values()] if self.once else every

    def __str__(self) -> str:
        more = ", one layer of each shape" * self.once
        return f"{self.arch}{' with convolutions' * self.conv}{more}"


def lora(case: Case, rank: int, seed: int = 0) -> pathlib.Path:
    """A file of random factors in float16, whose singular values fall off as trained ones do; made once."""
    arch, words = case.arch, "_conv" * case.conv + "_once" * case.once
    path = cache() / f"{arch}_rank{rank}{words}_{seed}.safetensors"
    if path.is_file():
        return path
    torch.manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for part, at, (out, inn, *kernel) in case.layers():
        key = file_key(part, at, arch)
        falls = 0.9 ** torch.arange(rank)
        up, down = torch.randn(out, rank) * falls / out**0.5, torch.randn(rank, inn, *kernel) / inn**0.5
        tensors[f"{key}.lora_up.weight"] = up.view(out, rank, *[1] * len(kernel)).half()
        tensors[f"{key}.lora_down.weight"] = down.half()
        tensors[f"{key}.alpha"] = torch.tensor(float(rank) / 2).half()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"ss_base_model_version": {"sd1": "sd_v1", "sdxl": "sdxl_base_v1-0"}[arch]})
    return path


def factors(path: pathlib.Path) -> dict[str, tuple[Tensor, Tensor]]:
    tensors = load_file(path)
    found = {}
    for key in (k.removesuffix(".lora_up.weight") for k in tensors if k.endswith(".lora_up.weight")):
        up, down = (tensors[f"{key}.lora_{side}.weight"].flatten(1).double() for side in ("up", "down"))
        found[key] = up * (float(tensors[f"{key}.alpha"]) / len(down)), down
    return found


def error(first: Mapping[str, tuple[Tensor, Tensor]], other: Mapping[str, tuple[Tensor, Tensor]]) -> float:
    """Norm of the difference of all products over the norm of the first's; no product is made."""
    off = there = 0.0
    for key, (up, down) in first.items():
        ups, downs = torch.cat([up, -other[key][0]], 1), torch.cat([down, other[key][1]])
        off += float(((ups.t() @ ups) * (downs @ downs.t())).sum())
        there += float(((up.t() @ up) * (down @ down.t())).sum())
    return (max(off, 0.0) / there) ** 0.5


def compared(name: str, ours: Ran, theirs: Ran | None, errors: Mapping[str, float]) -> None:
    sys.stdout.write(f"{name}\n  ours   {ours}\n")
    if theirs is not None:
        sys.stdout.write(f"  theirs {theirs}\n")
        sys.stdout.write(
            f"  {theirs.wall / ours.wall:.1f} times as fast, {ours.peak / theirs.peak:.2f} of the memory\n"
        )
    sys.stdout.write("".join(f"  error of {who}: {value:.3e}\n" for who, value in errors.items()))
    sys.stdout.flush()


def resize(given: Case) -> None:
    """To a rank, and to a share of the norm."""
    old, peer, out = lora(given, 64), given.peer, given.out
    cases = {"rank 16": [], "sv_fro 0.9": ["--dynamic_method", "sv_fro", "--dynamic_param", "0.9"]}
    for case, more in cases.items():
        words = ["--model", old, "--new_rank", "16", "--save_precision", "float", *more]
        mine = ours("resize", *words, "--save_to", out / "ours.safetensors", "--overwrite")
        other = peer and theirs(
            peer, "networks/resize_lora.py", *words, "--save_to", out / "theirs.safetensors",
            unused=("transformers", "diffusers"))  # fmt: skip
        first = factors(old)
        names = ["ours", *["theirs"] * bool(other)]
        errors = {name: error(first, factors(out / f"{name}.safetensors")) for name in names}
        compared(f"resize {given}, rank 64, {case}", mine, other, errors)


def convert(given: Case) -> None:
    """To diffusers' spelling and back; sd-scripts has no such tool."""
    old, out = lora(given, 64), given.out
    there, back = out / "there.safetensors", out / "back.safetensors"
    mine = ours("convert", old, "--to", "diffusers", "--save_to", there, "--overwrite")
    again = ours("convert", there, "--save_to", back, "--overwrite")
    one, two = load_file(old), load_file(back)
    same = one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    compared(f"convert {given}, to diffusers", mine, None, {})
    compared(f"convert {given}, back ({'equal' if same else 'NOT equal'})", again, None, {})


def checkpoint(arch: str) -> pathlib.Path:
    """Of full size, of random weights in float16; made once."""
    if arch == "sd1":
        return models.checkpoint()
    path = cache() / "sdxl_random.safetensors"
    if not path.is_file():
        torch.manual_seed(0)
        rows = {key: (shape, torch.float16) for key, shape in _sdxl()}
        write(path, rows, lambda key: _drawn(key, rows[key][0]), {})
    return path


def _drawn(key: str, shape: tuple[int, ...]) -> Tensor:
    if len(shape) < 2:
        return torch.full(shape, float(key.endswith("weight")), dtype=torch.float16)
    return (torch.randn(shape) / math.prod(shape[1:]) ** 0.5).half()


def _sdxl() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Keys and shapes of an SDXL checkpoint."""
    import diffusers
    import transformers

    blocks = (128, 256, 512, 512)
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(
            **SDXL, addition_embed_type="text_time", addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816)  # fmt: skip
        vae = diffusers.AutoencoderKL(
            block_out_channels=blocks, down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4, layers_per_block=2, latent_channels=4)  # fmt: skip
        text = transformers.CLIPTextModel(transformers.CLIPTextConfig(
            vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
            num_attention_heads=12))  # fmt: skip
    for name, tensor in unet.state_dict().items():
        yield f"model.diffusion_model.{unet_to_ldm(name, 'sdxl')}", tuple(tensor.shape)
    for name, tensor in vae.state_dict().items():
        own = vae_to_ldm(name)
        yield f"first_stage_model.{own}", tuple(as_conv(own, tensor).shape)
    for name, tensor in text.state_dict().items():
        yield f"conditioner.embedders.0.transformer.text_model.{text_path(name)}", tuple(tensor.shape)
    for name, shape in _tower(1280, 5120, 32):
        yield f"conditioner.embedders.1.model.{name}", shape


def _tower(wide: int, inner: int, count: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Of an OpenCLIP text encoder."""
    yield from {"positional_embedding": (77, wide), "text_projection": (wide, wide), "logit_scale": (),
                "token_embedding.weight": (49408, wide), "ln_final.weight": (wide,),
                "ln_final.bias": (wide,)}.items()  # fmt: skip
    parts = {"attn.out_proj": (wide, wide), "mlp.c_fc": (inner, wide), "mlp.c_proj": (wide, inner),
             "ln_1": (wide,), "ln_2": (wide,)}  # fmt: skip
    for i in range(count):
        at = f"transformer.resblocks.{i}"
        yield f"{at}.attn.in_proj_weight", (3 * wide, wide)
        yield f"{at}.attn.in_proj_bias", (3 * wide,)
        for name, shape in parts.items():
            yield f"{at}.{name}.weight", shape
            yield f"{at}.{name}.bias", shape[:1]


def merge(given: Case) -> None:
    """Two files into a checkpoint, and into one of a lower rank."""
    arch, peer, out, base = given.arch, given.peer, given.out, checkpoint(given.arch)
    files = [lora(given, 32), lora(given, 32, seed=1)]
    script = "networks/sdxl_merge_lora.py" if arch == "sdxl" else "networks/merge_lora.py"
    words = ["--models", *files, "--ratios", "0.6", "0.4"]
    into = [*words, "--sd_model", base, "--save_precision", "fp16"]
    paths = {name: out / f"{name}_merged.safetensors" for name in ("ours", "theirs")}
    mine = ours("merge", *into, "--save_to", paths["ours"], "--overwrite")
    other = peer and theirs(
        peer, script, *into, "--precision", given.precision, "--save_to", paths["theirs"])  # fmt: skip
    names = ["ours", *["theirs"] * bool(other and other.whole)]
    errors = {name: _merged_error(given, files, paths[name]) for name in names}
    compared(f"merge {given}, two files of rank 32 into a checkpoint", mine, other, errors)
    for path in paths.values():
        path.unlink(missing_ok=True)

    narrow = [*words, "--new_rank", "16", "--save_precision", "float"]
    mine = ours("merge", *narrow, "--save_to", out / "ours.safetensors", "--overwrite")
    more = ["--new_conv_rank", "16", "--precision", "float", "--save_to", out / "theirs.safetensors"]
    other = peer and theirs(peer, "networks/svd_merge_lora.py", *narrow, *more)
    first = _sum(files)
    errors = {name: error(first, factors(out / f"{name}.safetensors")) for name in names}
    compared(f"merge {given}, two files of rank 32 into one of 16", mine, other, errors)


def _sum(files: Sequence[pathlib.Path]) -> dict[str, tuple[Tensor, Tensor]]:
    (a, b), (x, y) = map(factors, files), (0.6, 0.4)
    return {
        key: (torch.cat([x * a[key][0], y * b[key][0]], 1), torch.cat([a[key][1], b[key][1]])) for key in a
    }


def _merged_error(given: Case, files: Sequence[pathlib.Path], path: pathlib.Path) -> float:
    """Norm of the difference from the exact weights over that of what is added, of some of the layers; half
    precision is most of it."""
    before, after, wanted = Base(checkpoint(given.arch)), Base(path), _sum(files)
    off = there = 0.0
    for part, at, _ in given.layers()[::9]:
        if (key := f"{part}.{at}") in before.weights:  # but not a text encoder's last, which nothing reads
            up, down = wanted[file_key(part, at, given.arch)]
            more = (up @ down).float()
            found = (after.weight(key) - before.weight(key)).flatten(1)
            off, there = off + float((found - more).square().sum()), there + float(more.square().sum())
    return (off / there) ** 0.5


def extract(given: Case) -> None:
    """Of a checkpoint with a file merged into it. Theirs with the clamp that it has when nothing is said."""
    arch, peer, out, base = given.arch, given.peer, given.out, checkpoint(given.arch)
    file, tuned = lora(given, 32), out / "tuned.safetensors"
    ours("merge", "--sd_model", base, "--models", file, "--save_to", tuned, "--overwrite")
    words = ["--model_org", base, "--model_tuned", tuned, "--dim", "16", "--save_precision", "float"]
    words += ["--conv_dim", "8"] * given.conv
    mine = ours("extract", *words, "--save_to", out / "ours.safetensors", "--overwrite")
    more = ["--sdxl"] if arch == "sdxl" else []
    script = "networks/extract_lora_from_models.py"
    other = peer and theirs(peer, script, *words, *more, "--save_to", out / "theirs.safetensors")
    names = ["ours", *["theirs"] * bool(other and other.whole)]
    made = {name: factors(out / f"{name}.safetensors") for name in names}
    first = {key: value for key, value in factors(file).items() if all(key in own for own in made.values())}
    compared(
        f"extract {given}, rank 16", mine, other, {name: error(first, own) for name, own in made.items()}
    )
    tuned.unlink()


PARTS: dict[str, Callable[[Case], None]] = {
    "merge": merge,
    "extract": extract,
    "resize": resize,
    "convert": convert,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=[*PARTS], choices=[*PARTS, []])
    parser.add_argument("--peer", type=pathlib.Path, help="folder of sd-scripts; without it ours alone")
    parser.add_argument("--size", nargs="+", default=["sd1"], choices=[*ARCHS])
    parser.add_argument("--linear", action="store_true", help="files without convolutions")
    parser.add_argument("--once", action="store_true", help="one layer of each shape")
    parser.add_argument("--peer_precision", default="float", help="bf16 where float32 does not fit")
    given = parser.parse_args()
    out = cache() / "tools"
    out.mkdir(parents=True, exist_ok=True)
    for arch in given.size:
        for part in given.parts:
            PARTS[part](Case(arch, not given.linear, given.once, given.peer, out, given.peer_precision))


if __name__ == "__main__":
    main()
