"""What is told of a file, against the model it was made on, the WebUI's formulas and transformers."""

from __future__ import annotations

import json
import pathlib
import shlex

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lora_train.adapters import FAMILIES
from lora_train.adapters.file import entries, save
from lora_train.adapters.network import Network
from lora_train.cli import main
from lora_train.errors import Mistake
from lora_train.job import assemble, declared, written
from lora_train.knobs import build
from lora_train.options import train_values
from lora_train.tools.base import Base
from lora_train.tools.inspect import Inspect, command
from lora_train.tools.looked import looked
from lora_train.tools.opened import Opened
from lora_train.tools.programs import forms, readers
from lora_train.tools.standard import fitted, layers, matches
from lora_train.tools.tokens import moved, vocabulary
from tests.hosts.tiny_checkpoints import write as write_checkpoint
from tests.test_laws import made, stirred
from tests.test_readable import layers as readable_layers
from tests.tiny import Tiny
from tests.tools import saved
from tests.webui_formulas import added

REFERENCE = pathlib.Path(__file__).parents[3] / "shared" / "reference"
TINY = REFERENCE / "tiny_sd1.safetensors"
there = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference artefacts are not there")
WEBUI = "AUTOMATIC1111's WebUI"


def filed(family: str, path: pathlib.Path, **values) -> Network:
    """A trained network of the light host, saved."""
    torch.manual_seed(3)
    network = stirred(Network(made(family, **values), Tiny().layers()))
    save(network, path, metadata={"ss_base_model_version": "sd_v1"}, dtype=torch.float32)
    return network


# ── models ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arch", "attentions", "convolutions", "texts"),
    [
        ("sd1", 192, 86, {"te1": 72}),
        ("sd2", 192, 86, {"te1": 138}),
        ("sdxl", 722, 66, {"te1": 72, "te2": 192}),
    ],
)
def test_layers_are_as_many_as_sd_scripts_adapts(arch, attentions, convolutions, texts):
    """Its counts: of transformers, of the convolutions beside them, of text encoders."""
    every = {key: shape for key, shape in layers(arch).items() if len(shape) > 1}
    unet = [key for key in every if key.startswith("unet.")]
    ends = ("unet.time_embed", "unet.label_emb", "unet.input_blocks.0.0", "unet.out.")
    inner = [key for key in unet if not key.startswith(ends)]
    within = [key for key in inner if ".1.proj_" in key or "transformer_blocks" in key]
    assert (len(within), len(inner) - len(within)) == (attentions, convolutions)
    assert {part: sum(key.startswith(f"{part}.") for key in every) for part in texts} == texts


@there
def test_layers_are_those_of_a_checkpoint():
    """One of a tenth of the width has the same names, axes and kernels."""
    base = Base(TINY)
    wanted = {
        key: shape for key, shape in base.shapes.items() if "embedding" not in key and "final" not in key
    }
    ours = layers("sd1")
    assert ours.keys() == wanted.keys()
    assert all(shape[2:] == ours[key][2:] and len(shape) == len(ours[key]) for key, shape in wanted.items())


@pytest.mark.parametrize("arch", ["sd2", "sdxl"])
def test_layers_of_small_checkpoints_are_among_them(arch, tmp_path):
    base = Base(write_checkpoint(tmp_path / "small.safetensors", arch))
    ours = layers(arch)
    own = {key: shape for key, shape in base.shapes.items() if "embedding" not in key and "final" not in key}
    lost = {key for key in own if key not in ours and "text_projection" not in key}
    assert not lost
    assert all(len(own[key]) == len(ours[key]) for key in own.keys() & ours.keys())


def test_a_file_fits_the_model_it_was_made_for_and_no_other(tmp_path):
    rng = torch.Generator().manual_seed(1)
    tensors = {}
    for key, shape in (("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k", (640, 1024)),
                       ("lora_unet_down_blocks_1_attentions_0_proj_in", (640, 640)),
                       ("lora_te_text_model_encoder_layers_22_mlp_fc1", (4096, 1024)),
                       ("lora_unet_nowhere_at_all", (8, 8))):  # fmt: skip
        tensors[f"{key}.lora_up.weight"] = torch.randn(shape[0], 4, generator=rng)
        tensors[f"{key}.lora_down.weight"] = torch.randn(4, shape[1], generator=rng)
    save_file(tensors, tmp_path / "a.safetensors")
    file = Opened(tmp_path / "a.safetensors")
    found = matches(file)
    assert file.arch == "sd2"
    assert len(found["sd2"].fits) == 3
    assert found["sd2"].strange == ("lora_unet_nowhere_at_all",)
    assert next(iter(tensors)).partition(".")[0] in found["sd1"].unlike
    assert "lora_te_text_model_encoder_layers_22_mlp_fc1" in found["sd1"].strange
    assert len(found["sdxl"].fits) <= 1


# ── layers ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_are_those_of_what_the_network_adds(family, tmp_path):
    network = filed(family, tmp_path / "a.safetensors")
    looks = {look.key: look for look in looked(Opened(tmp_path / "a.safetensors"))}
    assert looks.keys() == network.adapters.keys()
    known = [look for look in looks.values() if look.norm is not None]
    assert known or FAMILIES[family]().of_weight
    for look in known:
        assert look.norm == pytest.approx(float(network.delta(look.key).detach().norm()), rel=1e-4)
        assert not look.zero
        assert not look.fault


@pytest.mark.parametrize(
    ("family", "arch"),
    [*((family, "sd1") for family in (*FAMILIES, *saved.VARIANTS)), ("lora", "sd2"), ("lokr", "sdxl")],
)
def test_norms_beside_a_checkpoint_are_those_of_every_family(family, arch, tmp_path):
    network = saved.network(family, arch)
    path = saved.file(tmp_path, family, arch)
    found = {look.key: look for look in looked(Opened(path), saved.base(arch))}
    for key in network.adapters:
        wanted = float(network.delta(key).detach().norm())
        assert found[key].norm == pytest.approx(wanted, rel=2e-3), key
        assert found[key].share == pytest.approx(
            wanted / float(saved.base(arch).weight(key).norm()), rel=2e-3
        )
        assert found[key].shape == saved.base(arch).shapes[key]
        assert not found[key].fault


@pytest.mark.parametrize("arch", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_webui_reads_what_is_said_of_it(family, arch, tmp_path):
    """By its own formulas, of the files that we write and of those that hold what was trained itself."""
    torch.manual_seed(4)
    known = readable_layers(arch)
    network = stirred(Network(made(family), known.values()), 0.2)
    weights = {name: layer.weight() for name, layer in known.items()}
    names = {layer.key: name for name, layer in known.items()}
    texts = {"ss_base_model_version": "sd_v2" if arch == "sd2" else "sd_v1"}
    save(network, tmp_path / "a.safetensors", metadata=texts, dtype=torch.float32)
    save_file({k: v.contiguous() for k, v in entries(network).items()}, tmp_path / "b.safetensors", texts)
    for file in ("a", "b"):
        opened = Opened(tmp_path / f"{file}.safetensors")
        assert opened.arch == arch
        row = readers(opened)[WEBUI]
        try:
            gains = added(load_file(tmp_path / f"{file}.safetensors"), arch, weights)
        except (ValueError, RuntimeError, KeyError):
            assert row["reads"] < row["of"]
            continue
        right = [
            key for key in network.adapters if names[key] in gains
            and torch.allclose(gains[names[key]][0].flatten(), network.delta(key).flatten(), atol=1e-5)
        ]  # fmt: skip
        assert row["reads"] == len(right), row


def test_forms_that_programs_read_differently_are_told_apart(tmp_path):
    at, lora = "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_2", {
        "lora_up.weight": (4, 2), "lora_down.weight": (2, 6)}  # fmt: skip
    shapes = {
        "LoRA": lora, "Tucker LoRA": {**lora, "lora_mid.weight": (2, 2, 3, 3)},
        "LoRA with DoRA by inputs": {**lora, "dora_scale": (1, 6)},
        "LoRA with DoRA by outputs": {**lora, "dora_scale": (4, 1)},
        "OFT": {"oft_blocks": (2, 3, 3), "alpha": ()}, "BOFT": {"oft_blocks": (2, 2, 3, 3), "alpha": ()},
        "GLoRA": {"a1.weight": (2, 6), "a2.weight": (6, 2), "b1.weight": (2, 6), "b2.weight": (4, 2)},
        "GLoRA of LyCORIS 3": {"a1.weight": (6, 2), "a2.weight": (2, 6), "b1.weight": (4, 2),
                               "b2.weight": (2, 6)},
        "IA3": {"weight": (6,), "on_input": ()}, "norm": {"w_norm": (4,), "b_norm": (4,)},
    }  # fmt: skip
    for name, own in shapes.items():
        path = tmp_path / "a.safetensors"
        save_file({f"{at}.{n}": torch.ones(shape) for n, shape in own.items()}, path)
        assert [str(form) for form in forms(Opened(path)).values()] == [name]


def test_damage_is_told_and_not_raised(tmp_path, capsys):
    path = tmp_path / "a.safetensors"
    network = filed("lora", path)
    tensors = load_file(path)
    ups = [key for key in tensors if key.endswith("lora_up.weight")]
    tensors[ups[0]].view(-1)[3] = float("nan")
    tensors[ups[1]].zero_()
    tensors[ups[2]] = tensors[ups[2]][:, :1].clone()
    save_file(tensors, path, {"sshs_model_hash": "0" * 64})
    assert main(["inspect", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    said = {row["fault"] for row in facts["faults"]}
    assert any("NaN" in line for line in said)
    assert len(facts["faults"]) == 2
    assert len(facts["zero"]) == 1
    assert len(facts["layers"]) == len(network.adapters)
    assert facts["hashes"]["sshs_model_hash"]["equal"] is False
    assert main(["inspect", str(path)]) == 0
    assert "the file states 000" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("family", [*FAMILIES, *saved.VARIANTS])
def test_tensors_that_do_not_belong_together_are_told_too(family, tmp_path):
    """Whatever is missing or of another shape: every layer is in the report, and nothing is raised."""
    tensors = load_file(saved.file(tmp_path, family))
    key = next(k for k in tensors if k.startswith("lora_unet")).partition(".")[0]
    own = {k: t for k, t in tensors.items() if k.startswith(f"{key}.")}
    ways = (
        lambda name: {k: t for k, t in own.items() if k != name},
        lambda name: {**own, name: own[name].flatten()},
        lambda name: {**own, name: own[name][None, None, None]},
        lambda name: {**own, name: own[name].sum()},
        lambda name: {**own, name: own[name].flatten()[:0]},
        lambda name: {**own, name: (own[name] * 0).long()},
    )
    path, told = tmp_path / "odd.safetensors", 0
    for change in ways:
        for name in own:
            save_file({k: t.clone().contiguous() for k, t in change(name).items()} or {"a": own[name]}, path)
            try:
                Opened(path)
            except Mistake:
                continue  # no key of a LoRA is left
            facts = build(Inspect, {"model": path}).run().facts
            assert len(facts["layers"]) <= 1
            json.dumps(facts, allow_nan=False)
            told += bool(facts["faults"])
    assert told


def test_what_is_no_lora_or_damaged_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    filed("lora", path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Mistake, match="cut short"):
        build(Inspect, {"model": path}).run()
    with pytest.raises(Mistake, match="expected base"):
        build(Inspect, {"model": path, "tokens": 3})


@there
def test_a_picture_of_norms_and_the_shares_of_weights(tmp_path):
    picture, file = tmp_path / "norms.png", REFERENCE / "locon16" / "locon16.safetensors"
    report = build(Inspect, {"model": file, "base": TINY, "picture": picture, "verbose": True}).run()
    assert min(Image.open(picture).size) > 100
    weights, tensors = Base(TINY), load_file(file)
    row = next(row for row in report.facts["layers"] if row["key"] == "unet.middle_block.1.proj_in")
    at = "lora_unet_mid_block_attentions_0_proj_in"
    delta = tensors[f"{at}.lora_up.weight"].flatten(1) @ tensors[f"{at}.lora_down.weight"].flatten(1) / 2
    share = float(delta.norm() / weights.weight("unet.middle_block.1.proj_in").norm())
    assert row["share"] == pytest.approx(share, rel=1e-5)
    assert report.facts["fits"][str(TINY)]["fits"] == len(report.facts["layers"]) == 350
    assert report.facts["blocks"].keys() >= {"te1", "IN00", "M00", "OUT11"} - {"IN00"}
    assert fitted(Opened(file), "sd1", weights.shapes).whole
    with pytest.raises(Mistake, match="is there already"):
        build(Inspect, {"model": file, "picture": picture}).run()


# ── what it says of itself ──────────────────────────────────────────────────────────────────────────────────


def test_the_command_line_makes_the_same_job():
    job = {
        "network.kind": "lokr", "network.factor": 8, "network.dim": 6, "lr.kind": "cosine",
        "lr.lr_warmup_steps": 0.1, "objective.min_snr_gamma": 5.0, "training.max_train_steps": 77,
        "data.trigger_word": "a cat, 'zwx'", "data.datasets.0.resolution": [64, 96],
        "data.datasets.0.subsets.0.image_dir": "a b", "optimizer.betas": [0.9, 0.95],
    }  # fmt: skip
    plain = written(*assemble(job))
    words = shlex.split(command(plain))
    assert words[:2] == ["lora-train", "train"]
    values, _ = train_values(words[2:], declared())
    assert written(*assemble(values)) == plain


@there
def test_settings_of_sd_scripts_become_a_command_line(capsys):
    file = REFERENCE / "locon_dim4_conv2" / "locon_dim4_conv2.safetensors"
    assert main(["inspect", str(file), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    values, _ = train_values(shlex.split(facts["command"])[2:], declared())
    network = assemble(values)[0].network
    assert (network.dim, network.conv_dim, network.conv_alpha) == (4, 2, 1)
    assert facts["tags"]
    assert facts["folders"]["10_photos"]["img_count"] == 8


# ── tokens ──────────────────────────────────────────────────────────────────────────────────────────────────


@there
def test_tokens_move_as_transformers_text_encoder_says():
    transformers = pytest.importorskip("transformers")
    path = REFERENCE / "locon16" / "locon16.safetensors"
    config = json.loads((REFERENCE / "tiny_sd1_clip" / "config.json").read_text(encoding="utf-8"))
    wanted = {k: config[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers",
                                     "num_attention_heads", "hidden_act", "vocab_size")}  # fmt: skip
    clip = transformers.CLIPTextModel(transformers.CLIPTextConfig(**wanted)).eval()
    lead = "cond_stage_model.transformer."
    state = {k.removeprefix(lead): v for k, v in load_file(TINY).items() if k.startswith(lead)}
    if not any(name.startswith("text_model.") for name in clip.state_dict()):
        state = {k.removeprefix("text_model."): v for k, v in state.items()}
    clip.load_state_dict(state, strict=False)
    base, file = Base(TINY), Opened(path)
    words = {number: text for number, text in vocabulary().items() if number % 200 == 7}
    [row] = moved(file, base, len(words), words=words).values()
    ids = [next(n for n, text in words.items() if text == one.text.replace(" ", "</w>")) for one in row]
    tokens = torch.tensor([[49406, number] for number in ids])
    with torch.no_grad():
        before = clip(tokens).last_hidden_state[:, 1]
        modules = dict(clip.named_modules())
        for key in (key for key in file.layers if key.startswith("te1.")):
            name = key.removeprefix("te1.")
            module = modules.get(f"text_model.{name}") or modules[name]
            module.weight += file.change(key).matrix()
        after = clip(tokens).last_hidden_state[:, 1]
    shares = ((after - before).norm(dim=1) / before.norm(dim=1)).tolist()
    assert [one.share for one in row] == pytest.approx(shares, rel=1e-3)
    assert len(row) > 200


@there
def test_a_file_without_text_encoder_tells_what_is_read_of_captions(tmp_path):
    at = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    table = load_file(TINY)["cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"]
    base = Base(TINY)
    down = torch.randn(1, 64, generator=torch.Generator().manual_seed(1))
    save_file({f"{at}.lora_up.weight": torch.ones(128, 1), f"{at}.lora_down.weight": down},
              tmp_path / "a.safetensors")  # fmt: skip
    found = moved(Opened(tmp_path / "a.safetensors"), base, 5, words=dict.fromkeys(range(300, 500), "x"))
    assert [*found] == ["captions"]
    assert len(table) == base.shapes["te1.embeddings.token_embedding"][0]
    shares = [one.share for one in found["captions"]]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] <= float(down.norm()) * 128**0.5 + 1e-4
    at = at.replace("attn2_to_k", "ff_net_2")
    save_file({f"{at}.lora_up.weight": torch.ones(128, 1), f"{at}.lora_down.weight": torch.ones(1, 512)},
              tmp_path / "b.safetensors")  # fmt: skip
    with pytest.raises(Mistake, match="moves no token"):
        moved(Opened(tmp_path / "b.safetensors"), base, 5)
