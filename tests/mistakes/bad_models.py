"""Files of weights: checkpoints, adapters and states that are damaged, of something else, or not sound."""

from __future__ import annotations

import functools
import io
import json
import os
import pathlib
import pickle
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from lora_train.adapters.file import entries
from lora_train.adapters.lora import Lora
from lora_train.adapters.network import Network
from tests.conftest import REFERENCE
from tests.mistakes.harness import DONE, EITHER, TAKEN, Case, Ground, Plant, chance, outcome
from tests.tiny import Tiny

MODEL = REFERENCE / "tiny_sd1.safetensors"
Tensors = dict[str, Tensor]
Change = Callable[[dict], object]


def packed(rows: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A .safetensors file of this header."""
    header = rows if isinstance(rows, bytes) else json.dumps(rows).encode()
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def unpacked(content: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def rewritten(content: bytes, change: Change) -> bytes:
    """With another header."""
    rows, data = unpacked(content)
    changed = change(rows)
    return packed(rows if changed is None else changed, data)


def first(rows: dict) -> dict:
    return next(row for name, row in rows.items() if name != "__metadata__")


HEADERS: dict[str, Change] = {
    "of an unknown kind of number": lambda rows: first(rows).update(dtype="Q8"),
    "of a kind of number that is none": lambda rows: first(rows).update(dtype=7),
    "of a shape below nothing": lambda rows: first(rows).update(shape=[-1, 4]),
    "of a shape that is a text": lambda rows: first(rows).update(shape="4"),
    "of a shape without end": lambda rows: first(rows).update(shape=[2**62, 2**62]),
    "of a shape that does not fill": lambda rows: first(rows).update(shape=[3]),
    "of offsets backwards": lambda rows: first(rows).update(data_offsets=[64, 0]),
    "of offsets below nothing": lambda rows: first(rows).update(data_offsets=[-64, 0]),
    "of offsets beyond its end": lambda rows: first(rows).update(data_offsets=[2**40, 2**40 + 64]),
    "of offsets that are words": lambda rows: first(rows).update(data_offsets=["a", "b"]),
    "of one offset": lambda rows: first(rows).update(data_offsets=[0]),
    "of rows that are numbers": lambda rows: dict.fromkeys(rows, 3),
    "of rows without a shape": lambda rows: first(rows).pop("shape") and None,
    "that is a list": lambda rows: [rows],
    "that is a number": lambda rows: 3,
    "that is nothing": lambda rows: b"null",
    "of no JSON": lambda rows: b"{none of it}",
    "of no text": lambda rows: b'{"\xff\xfe": 1}',
    "nested without end": lambda rows: b'{"a":' * 50_000,
}


def damages(content: Callable[[], bytes]) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """What can be wrong with any such file."""
    for part in (0.0, 0.001, 0.3, 0.999):
        yield f"cut to {part:.1%}", lambda part=part: content()[: int(len(content()) * part)]
    for name, data in {
        "of seven bytes": b"1234567",
        "of zeros": bytes(4096),
        "of text": b"hello " * 50,
        "that is a web page": b"<!DOCTYPE html><html>" * 50,
        "that is a picture": b"\x89PNG\r\n\x1a\n" * 50,
        "that is a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "that is a zip": b"PK\x03\x04" + bytes(99),
        "that is a pickle": pickle.dumps({"a": 1}) + bytes(99),
        "with a header without end": packed(b"{}", length=2**63),
        "with a header of more than there is": packed(b"{}", length=5000),
        "with a header of nothing": packed(b"", length=0),
        "without tensors": packed({}),
    }.items():
        yield name, lambda data=data: data
    for name, change in HEADERS.items():
        yield f"with a header {name}", lambda change=change: rewritten(content(), change)


# ── adapters ──────────────────────────────────────────────────────────────────────────────────────────────


@functools.cache
def adapter() -> Mapping[str, Tensor]:
    """Of the light model; neither factor is zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        tensors = entries(Network(Lora(), Tiny().layers()))
        return {k: torch.randn_like(t) if k.endswith("lora_up.weight") else t for k, t in tensors.items()}


def stored(tensors: Mapping[str, Tensor], **metadata: str) -> bytes:
    return safetensors.torch.save({k: t.contiguous() for k, t in tensors.items()}, metadata or None)


def end(tensors: Tensors, ending: str) -> str:
    return chance("end", ending).choice([name for name in tensors if name.endswith(ending)])


def put(ending: str, make: Callable[[Tensor], Tensor | None]) -> Callable[[], bytes]:
    """One tensor changed, or taken out."""

    def content() -> bytes:
        tensors = dict(adapter())
        name = end(tensors, ending)
        changed = make(tensors.pop(name).clone())
        return stored(tensors if changed is None else {**tensors, name: changed})

    return content


def renamed(old: str, new: str) -> Callable[[], bytes]:
    return lambda: stored({name.replace(old, new): t for name, t in adapter().items()})


def spoiled(value: float) -> Callable[[Tensor], Tensor]:
    def make(tensor: Tensor) -> Tensor:
        tensor.view(-1)[0] = value
        return tensor

    return make


def of(*names: str) -> Callable[[], bytes]:
    return lambda: stored({name: torch.zeros(4, 4) for name in names})


UP, DOWN, ALPHA = "lora_up.weight", "lora_down.weight", "alpha"
KEY = "lora_unet_mid_block_attentions_0_proj_in"
UNSOUND: dict[str, Callable[[], bytes]] = {
    "with nan": put(UP, spoiled(float("nan"))),
    "with inf": put(DOWN, spoiled(float("inf"))),
    "with an alpha of nan": put(ALPHA, spoiled(float("nan"))),
    "with an alpha of inf": put(ALPHA, spoiled(float("inf"))),
    "with two alphas": put(ALPHA, lambda t: torch.ones(2)),
    "with an alpha of nothing": put(ALPHA, lambda t: torch.ones(0)),
    "without an up": put(UP, lambda t: None),
    "without a down": put(DOWN, lambda t: None),
    "with a wider up": put(UP, lambda t: torch.cat([t, t])),
    "with a wider down": put(DOWN, lambda t: torch.cat([t, t], 1)),
    "with an up of another rank": put(UP, lambda t: torch.cat([t, t], 1)),
    "with a rank of 0": put(DOWN, lambda t: t[:0]),
    "with a down of one axis": put(DOWN, lambda t: t.flatten()),
    "with a down of no axis": put(DOWN, lambda t: torch.tensor(1.0)),
    "with an up of five axes": put(UP, lambda t: t[None, None, None]),
    "with whole numbers": put(UP, lambda t: t.long()),
    "with switches": put(UP, lambda t: t > 0),
    "of layers that there are not": renamed("lora_unet_", "lora_unet_zzz_"),
    "of a part that there is not": renamed("lora_unet_", "lora_prior_"),
    "of names that are none": renamed("lora_", "zzz_"),
    "of a factor that is none": renamed("lora_up", "lora_upp"),
}
FOREIGN: dict[str, tuple[str, ...]] = {
    "a LoHa": (f"{KEY}.hada_w1_a", f"{KEY}.hada_w1_b"),
    "a LoKr": (f"{KEY}.lokr_w1", f"{KEY}.lokr_w2"),
    "a DoRA": (f"{KEY}.dora_scale", f"{KEY}.{UP}", f"{KEY}.{DOWN}"),
    "an OFT": (f"{KEY}.oft_blocks",),
    "an IA3": (f"{KEY}.on_input", f"{KEY}.weight"),
    "a GLoRA": (f"{KEY}.a1.weight", f"{KEY}.b1.weight"),
    "a full difference": (f"{KEY}.diff",),
    "a Tucker decomposition": (f"{KEY}.lora_mid.weight",),
    "PEFT's": ("base_model.model.mid_block.attentions.0.proj_in.lora_A.weight",),
    "diffusers'": ("unet.mid_block.attentions.0.proj_in.lora.down.weight",),
    "of SDXL": ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight",),
    "of Flux": ("lora_unet_double_blocks_0_img_attn_proj.lora_up.weight",),
    "an embedding": ("emb_params",),
    "a checkpoint": ("model.diffusion_model.input_blocks.0.0.weight",),
    "an autoencoder": ("first_stage_model.decoder.conv_in.weight",),
    "unknown": ("a", "b.c"),
    "a ControlNet": ("control_model.input_blocks.0.0.weight",),
}


def weights(content: Callable[[], bytes], *more: str, name: str = "w.safetensors") -> Plant:
    return lambda g: g.train("--network_weights", g.write(name, content()), *more)


def worn(command: str, content: Callable[[], bytes]) -> Plant:
    def plant(ground: Ground) -> list[str]:
        file = ground.write("w.safetensors", content())
        return ground.draw(command, "--prompt", "a --w 64 --h 64 --s 1 --d 1", "--network_weights", file)

    return plant


def adapters() -> Iterator[Case]:
    for name, content in damages(lambda: stored(adapter())):
        yield Case(f"an adapter {name}", weights(content), ("w.safetensors",))
    for name, content in UNSOUND.items():
        yield Case(f"an adapter {name}", weights(content), ("w.safetensors",))
        yield Case(
            f"an adapter {name} by its dim", weights(content, "--dim_from_weights"), ("w.safetensors",)
        )
        yield Case(f"a sample of an adapter {name}", worn("sample", content), ("w.safetensors",))
    for name, keys in FOREIGN.items():
        yield Case(f"an adapter that is {name}", weights(of(*keys)), ("w.safetensors",))
        yield Case(f"a sheet of an adapter that is {name}", worn("plot", of(*keys)), ("w.safetensors",))
    sound = functools.partial(stored, adapter())
    mixed = put(DOWN, lambda t: t[:2])
    yield Case(
        "an adapter of another dim", weights(lambda: stored(adapter()), "--network_dim", "8"), ("dim",)
    )
    yield Case("an adapter of mixed ranks", weights(mixed), ("w.safetensors",))
    for ending in (".ckpt", ".pt", ".bin", ".zip"):
        data = (lambda: code("planted")) if ending != ".zip" else (lambda: b"PK")
        yield Case(f"an adapter that is a {ending}", weights(data, name=f"w{ending}"), (f"w{ending}",))
    yield Case("no adapter", lambda g: g.train("--network_weights", g.folder / "gone"), ("gone",))
    yield Case("a folder for an adapter", lambda g: g.train("--network_weights", g.set), ("pictures",))
    yield Case(
        "no adapter to take the dim of", lambda g: g.train("--dim_from_weights"), ("dim_from_weights",)
    )
    yield Case(
        "a sound adapter",
        lambda g: g.train("--network_weights", g.write("w.safetensors", sound())),
        (),
        TAKEN,
    )
    yield Case("a job that is no JSON", repeated("{none"), ("w.safetensors",))
    yield Case("a job that is a list", repeated("[1]"), ("w.safetensors",))
    yield Case("a job of what there is not", repeated('{"network.dimm": 4}'), ("network.dimm",))
    yield Case("a job without an end", repeated("[" * 100_000), ("w.safetensors",))


def repeated(job: str) -> Plant:
    return lambda g: g.train(
        "--from", g.write("w.safetensors", stored(adapter(), lora_train_job=job)), seed=None
    )


# ── checkpoints ───────────────────────────────────────────────────────────────────────────────────────────


class Code:
    """Unpickled, it makes a file."""

    def __init__(self, name: str):
        self.name = name

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.name,)


def code(name: str) -> bytes:
    """torch.save's file with code in it."""
    file = io.BytesIO()
    torch.save({"state_dict": {"a": torch.zeros(2)}, "planted": Code(name)}, file)
    return file.getvalue()


def model(
    name: str,
    write: Callable[[pathlib.Path], object],
    option: str = "pretrained_model_name_or_path",
    **others: object,
) -> Plant:
    def plant(ground: Ground) -> list[str]:
        path = ground.folder / name
        write(path)
        return ground.train(**{option: path, **others})

    return plant


def data(content: Callable[[], bytes]) -> Callable[[pathlib.Path], object]:
    return lambda path: path.write_bytes(content())


@functools.cache
def header() -> bytes:
    with MODEL.open("rb") as file:
        return file.read(int.from_bytes(file.read(8), "little"))


def hollow(change: Callable[[dict], object]) -> Callable[[pathlib.Path], object]:
    """The tiny checkpoint with other shapes, all zeros, that take no room on the disk."""

    def write(path: pathlib.Path) -> None:
        rows, at = json.loads(header()), 0
        rows.pop("__metadata__", None)
        change(rows)
        for row in rows.values():
            size = torch.Size(row["shape"]).numel() * {"F32": 4, "F16": 2, "I64": 8, "I8": 1}[row["dtype"]]
            row["data_offsets"], at = [at, at + size], at + size
        content = packed(rows)
        with path.open("wb") as file:
            file.write(content)
            file.truncate(len(content) + at)
        path.with_suffix(".yaml").write_bytes(MODEL.with_suffix(".yaml").read_bytes())
        (path.parent / "tiny_sd1_clip").mkdir(exist_ok=True)
        config = REFERENCE / "tiny_sd1_clip" / "config.json"
        (path.parent / "tiny_sd1_clip" / "config.json").write_bytes(config.read_bytes())

    return write


PARTS = {"UNet": "model.diffusion_model.", "VAE": "first_stage_model.", "text": "cond_stage_model."}
SMALL = {"model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3)}
FAMILIES: dict[str, Mapping[str, tuple[int, ...]]] = {
    "SDXL": {**SMALL, "conditioner.embedders.1.model.ln_final.weight": (4,)},
    "SD 2": {**SMALL, "cond_stage_model.model.ln_final.weight": (4,)},
    "SD 3": {"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (4, 4)},
    "Flux": {"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (4, 4)},
    "edits": {"model.diffusion_model.input_blocks.0.0.weight": (320, 8, 3, 3)},
    "an autoencoder": {"encoder.down.0.block.0.conv1.weight": (4, 4), "decoder.conv_in.weight": (4, 4)},
    "a LoRA": {f"{KEY}.{UP}": (4, 4), f"{KEY}.{DOWN}": (4, 4)},
    "a ControlNet": {"control_model.input_hint_block.0.weight": (4, 4)},
    "an embedding": {"emb_params": (4, 768)},
    "an upscaler": {"body.0.rdb1.conv1.weight": (4, 4)},
    "a bare denoiser": {"down_blocks.0.attentions.0.proj_in.weight": (4, 4)},
    "unknown": {"a": (4,)},
    "a denoiser alone": SMALL,
}


def shaped(shapes: Mapping[str, tuple[int, ...]]) -> Callable[[], bytes]:
    return lambda: stored({name: torch.zeros(shape) for name, shape in shapes.items()})


def dropped(lead: str, turn: int) -> Change:
    def change(rows: dict) -> None:
        names = sorted(n for n in rows if n.startswith(lead) and not n.endswith("position_ids"))
        del rows[chance("dropped", lead, turn).choice(names)]

    return change


def doubled(lead: str, turn: int) -> Change:
    def change(rows: dict) -> None:
        names = sorted(n for n, row in rows.items() if n.startswith(lead) and n.endswith(".weight"))
        row = rows[chance("doubled", lead, turn).choice(names)]
        row["shape"] = [2 * row["shape"][0], *row["shape"][1:]]

    return change


def without(lead: str) -> Change:
    def change(rows: dict) -> None:
        for name in [name for name in rows if name.startswith(lead)]:
            del rows[name]

    return change


def beside(text: bytes | str) -> Callable[[pathlib.Path], object]:
    """The checkpoint with another .yaml beside it."""

    def write(path: pathlib.Path) -> None:
        hollow(lambda rows: None)(path)
        path.with_suffix(".yaml").write_bytes(text if isinstance(text, bytes) else text.encode())

    return write


NAN = {  # a tensor that all the others of its part depend on
    "UNet": "model.diffusion_model.input_blocks.0.0.weight",
    "VAE": "first_stage_model.encoder.conv_in.weight",
    "text": "cond_stage_model.transformer.text_model.final_layer_norm.weight",
}


def poisoned(name: str) -> Callable[[pathlib.Path], object]:
    """The hollow checkpoint with a tensor of NaN."""

    def write(path: pathlib.Path) -> None:
        hollow(lambda rows: None)(path)
        with path.open("r+b") as file:
            length = int.from_bytes(file.read(8), "little")
            begin, last = json.loads(file.read(length))[name]["data_offsets"]
            file.seek(8 + length + begin)
            file.write(torch.full(((last - begin) // 4,), torch.nan).numpy().tobytes())

    return write


UNET = "model:\n  params:\n    unet_config:\n      params:\n        num_heads: "
TEXT = "model:\n  params:\n    cond_stage_config:\n      params:\n        version: "
YAMLS: dict[str, bytes | str] = {
    "empty": "",
    "a list": "- a\n- b\n",
    "a text": "hello",
    "no YAML": "a: [1, 2",
    "with tabs": "model:\n\tparams: 1",
    "in UTF-16": "model: 1".encode("utf-16"),
    "a picture": b"\x89PNG" + bytes(40),
    "of a model that is a list": "model: []",
    "of params that are a text": "model:\n  params: hello\n",
    "of heads that do not divide": f"{UNET}7\n",
    "of heads that are words": f"{UNET}many\n",
    "of more heads than channels": f"{UNET}4096\n",
    "of a text encoder that is not there": f"{TEXT}gone\n",
    "with code": "!!python/object/apply:os.mkdir [planted]",
    "nested without end": "[" * 3000,
    "of a scale of a word": "model:\n  params:\n    scale_factor: x\n",
    "of steps below nothing": "model:\n  params:\n    timesteps: -5\n",
    "of a schedule of nan": "model:\n  params:\n    linear_start: .nan\n",
}


def pipeline(files: Mapping[str, str]) -> Callable[[pathlib.Path], object]:
    def write(path: pathlib.Path) -> None:
        path.mkdir()
        for name, text in files.items():
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_text(text, encoding="utf-8")

    return write


PIPELINES: dict[str, Mapping[str, str]] = {
    "without model_index": {},
    "with a model_index of no JSON": {"model_index.json": "{"},
    "with a model_index that is a list": {"model_index.json": "[]"},
    "without a class": {"model_index.json": "{}"},
    "of another class": {"model_index.json": '{"_class_name": "StableDiffusionXLPipeline"}'},
    "without parts": {"model_index.json": '{"_class_name": "StableDiffusionPipeline"}'},
    "with an empty part": {
        "model_index.json": '{"_class_name": "StableDiffusionPipeline"}',
        "unet/diffusion_pytorch_model.safetensors": "",
    },
    "that is a repository": {"README.md": "a model", ".gitattributes": ""},
}


def torch_file(content: object) -> Callable[[], bytes]:
    def make() -> bytes:
        file = io.BytesIO()
        torch.save(content, file)
        return file.getvalue()

    return make


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"none of it")
    return file.getvalue()


PICKLES: dict[str, Callable[[], bytes]] = {
    "with code in it": lambda: code("planted"),
    "that is a list": torch_file([1, 2]),
    "that is a number": torch_file(3),
    "that is a tensor": torch_file(torch.zeros(3)),
    "without tensors": torch_file({"state_dict": {}}),
    "of other tensors": torch_file({"a": torch.zeros(3)}),
    "that is cut": lambda: code("planted")[:300],
    "that is empty": lambda: b"",
    "of text": lambda: b"hello " * 99,
    "of zeros": lambda: bytes(999),
    "with old code in it": lambda: pickle.dumps(Code("planted")),
    "that is another zip": zipped,
}


def checkpoints() -> Iterator[Case]:
    heavy = {"model": "heavy"}
    for name, content in damages(shaped(SMALL)):
        yield Case(f"a checkpoint {name}", model("m.safetensors", data(content)), ("m.safetensors",), **heavy)
    for name, shapes in FAMILIES.items():
        yield Case(
            f"a checkpoint that is {name}",
            model("m.safetensors", data(shaped(shapes))),
            ("m.safetensors",),
            **heavy,
        )
        yield Case(
            f"an autoencoder that is {name}" if name != "an autoencoder" else "an autoencoder of no size",
            vae(shaped(shapes)),
            ("m.safetensors", "vae") if name != "an autoencoder" else (),
            ends=EITHER if not MODEL.exists() else (2,),
            **heavy,
        )
    for name, content in PICKLES.items():
        yield Case(f"a .ckpt {name}", model("m.ckpt", data(content)), ("m.ckpt",), **heavy)
    for name, files in PIPELINES.items():
        yield Case(f"a folder {name}", model("m", pipeline(files)), ("/m",), **heavy)
    if not MODEL.exists():
        return
    for part, lead in PARTS.items():
        for turn in range(3):
            for kind, change in (("missing", dropped(lead, turn)), ("doubled", doubled(lead, turn))):
                yield Case(
                    f"a checkpoint with a tensor of its {part} {kind} {turn}",
                    model("m.safetensors", hollow(change)),
                    ("m.safetensors",),
                    **heavy,
                )
        yield Case(
            f"a checkpoint without its {part}",
            model("m.safetensors", hollow(without(lead))),
            ("m.safetensors",),
            **heavy,
        )
    for name, text in YAMLS.items():
        yield Case(
            f"a checkpoint whose .yaml is {name}",
            model("m.safetensors", beside(text)),
            ("gone",) if "not there" in name else ("m.",),
            **heavy,
        )
    yield Case("no checkpoint", lambda g: g.train(), ("model.safetensors",), **heavy)
    yield Case(
        "no checkpoint given", lambda g: g.train(pretrained_model_name_or_path=None), ("pretrained",), **heavy
    )
    yield Case(
        "a name on a hub",
        lambda g: g.train(pretrained_model_name_or_path="runwayml/sd"),
        ("runwayml/sd",),
        **heavy,
    )
    yield Case(
        "a picture for a checkpoint",
        lambda g: g.train(pretrained_model_name_or_path=g.pictures / "a.png"),
        ("a.png",),
        **heavy,
    )
    yield Case(
        "more layers skipped than there are",
        lambda g: g.train(pretrained_model_name_or_path=MODEL, clip_skip=99),
        ("clip_skip",),
        **heavy,
    )


def spoilt() -> Iterator[Case]:
    """Checkpoints that are whole and not sound: the run begins, gives up and says so."""
    for part, name in NAN.items():
        plant = model("m.safetensors", poisoned(name), max_train_steps=5)
        yield Case(
            f"a checkpoint whose {part} is NaN", plant, ("2_thing/",), writes=part != "VAE", model="heavy"
        )


def vae(content: Callable[[], bytes]) -> Plant:
    return lambda g: g.train(pretrained_model_name_or_path=MODEL, vae=g.write("m.safetensors", content()))


# ── states ────────────────────────────────────────────────────────────────────────────────────────────────


@functools.cache
def state() -> bytes:
    """What a run of two steps leaves to go on from."""
    with tempfile.TemporaryDirectory() as folder:
        ground = Ground(pathlib.Path(folder) / "ground")
        status, said = outcome(ground.train("--save_state", max_train_steps=2))
        assert status == DONE, said
        return (ground.output / "x-state" / "state.safetensors").read_bytes()


def resumed(content: Callable[[], bytes], **others: object) -> Plant:
    def plant(ground: Ground) -> list[str]:
        ground.write("x-state/state.safetensors", content())
        return ground.train(resume=ground.folder / "x-state", **{"max_train_steps": 3, **others})

    return plant


def plain(change: Callable[[dict], object]) -> Callable[[], bytes]:
    """With other plain values beside the tensors."""

    def content() -> bytes:
        tensors, texts = opened(state())
        values = json.loads(texts["state"])
        changed = change(values)
        return stored(tensors, state=json.dumps(values if changed is None else changed))

    return content


def opened(content: bytes) -> tuple[Tensors, dict[str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "a"
        path.write_bytes(content)
        with safe_open(path, "pt") as file:
            return {n: file.get_tensor(n).clone() for n in file.keys()}, file.metadata()  # noqa: SIM118


def tensors(change: Callable[[Tensors], object]) -> Callable[[], bytes]:
    def content() -> bytes:
        found, texts = opened(state())
        change(found)
        return stored(found, **texts)

    return content


def without_some(ending: str) -> Callable[[Tensors], object]:
    return lambda found: found.pop(end(found, ending)) is None


def set_some(ending: str, make: Callable[[Tensor], Tensor]) -> Callable[[Tensors], object]:
    def change(found: Tensors) -> None:
        name = end(found, ending)
        found[name] = make(found[name].clone())

    return change


STATES: dict[str, Callable[[], bytes]] = {
    "of a newer schema": plain(lambda v: v.update(schema=99)),
    "of a schema of a word": plain(lambda v: v.update(schema="x")),
    "of schema nothing": plain(lambda v: v.update(schema=None)),
    "without a schema": plain(lambda v: v.pop("schema") and None),
    "that is a list": plain(lambda v: [1]),
    "that is a number": plain(lambda v: 3),
    "that is empty": plain(lambda v: {}),
    **{
        f"without {name}": plain(lambda v, n=name: v.pop(n) and None)
        for name in ("progress", "samples_per_epoch", "job", "values", "optimizer")
    },
    **{
        f"with a number for {name}": plain(lambda v, n=name: v.update({n: 3}))
        for name in ("progress", "job", "values", "optimizer")
    },
    "of a step of a word": plain(lambda v: v["progress"].update(step="x")),
    "of a step below nothing": plain(lambda v: v["progress"].update(step=-3)),
    "of a step with a fraction": plain(lambda v: v["progress"].update(step=1.5)),
    "of other samples": plain(lambda v: v.update(samples_per_epoch=99)),
    "of settings that there are not": plain(lambda v: v["values"].update({"network.zzz": 1})),
    "of no groups": plain(lambda v: v["optimizer"].update(groups=[])),
    "of groups that are words": plain(lambda v: v["optimizer"].update(groups=["a"])),
    "of no text": lambda: stored(opened(state())[0], other="x"),
    "of no JSON": lambda: stored(opened(state())[0], state="{"),
    "without an adapter": tensors(without_some("up")),
    "without an adapter's down": tensors(without_some("down")),
    "with a larger adapter": tensors(set_some("down", lambda t: torch.cat([t, t]))),
    "with nan": tensors(set_some("up", spoiled(float("nan")))),
    "without a mean": tensors(without_some("exp_avg")),
    "with a larger mean": tensors(set_some("exp_avg", lambda t: torch.cat([t, t]))),
    "with a mean of nan": tensors(set_some("exp_avg_sq", spoiled(float("nan")))),
    "that is an adapter": lambda: stored(adapter()),
}


def states() -> Iterator[Case]:
    says = ("x-state",)
    for name, content in damages(state):
        yield Case(f"a state {name}", resumed(content), says)
    for name, content in STATES.items():
        said = ("network.zzz",) if "there are not" in name else says
        yield Case(f"a state {name}", resumed(content), said)
    for name, others in {"dim": {"network_dim": 8}, "seed": {"seed": 7}, "size": {"resolution": 128}}.items():
        yield Case(f"a state of another {name}", resumed(state, **others), ("the state was saved with",))
    yield Case("a state that is done", resumed(state, max_train_steps=2), (), ends=TAKEN)
    yield Case("a state that is further", resumed(state, max_train_steps=1), ("x-state", "max_train_steps"))
    yield Case("an empty folder for a state", lambda g: g.train(resume=g.output), ("place.resume",))
    yield Case("a file for a state", lambda g: g.train(resume=g.pictures / "a.png"), ("place.resume",))
    yield Case(
        "a folder for a state's file",
        lambda g: (
            (g.folder / "x-state" / "state.safetensors").mkdir(parents=True)
            or g.train(resume=g.folder / "x-state")
        ),
        says,
    )


CASES = [*adapters(), *checkpoints(), *(spoilt() if MODEL.exists() else ()), *states()]
