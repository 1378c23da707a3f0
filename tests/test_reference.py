"""sd-scripts' own runs, replayed from tapes: the same random numbers give the same losses and weights."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator

import pytest
import torch
from safetensors.torch import load_file

from lora_train.adapters.family import Family
from lora_train.adapters.file import begun, entries, load, network_of, restore, save
from lora_train.adapters.loha import Loha
from lora_train.adapters.lokr import Lokr
from lora_train.adapters.lora import Lora
from lora_train.adapters.network import Network
from lora_train.errors import Mistake
from lora_train.host import Lent, Model
from lora_train.noise import Schedule
from lora_train.objectives.denoise import Denoise

REFERENCE = pathlib.Path(__file__).parents[2] / "shared" / "reference"
pytestmark = pytest.mark.skipif(not REFERENCE.is_dir(), reason="../shared/reference is not on this machine")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of sd-scripts."""

    name: str
    tape: str
    family: Family
    objective: Denoise
    near: float = 1e-4  # how close weights come in other arithmetic than the tape's
    exact: float = 1e-6  # and in the tape's
    threads: int = 1

    @property
    def file(self) -> pathlib.Path:
        return REFERENCE / self.name / f"{self.name}.safetensors"

    def steps(self) -> list[dict]:
        """Captions, timesteps and losses, as its log has them."""
        return json.loads((REFERENCE / self.name / "run.json").read_text())["steps"]


LOHA = Loha(dim=4, conv_dim=2, preset="full")
LOKR = Lokr(dim=4, conv_dim=2, factor=4, preset="full")
RUNS = {
    run.name: run
    for run in (
        Run("lora_dim4", "lora_dim4", Lora(dim=4), Denoise(), threads=2),
        Run("lora_dim4_minsnr", "lora_dim4", Lora(dim=4), Denoise(min_snr_gamma=5.0)),
        # a gradient next to zero turns its sign here and there; Adam then goes a step of 1e-3 the other way
        Run("locon_dim4_conv2", "locon_dim4_conv2", Lora(dim=4, conv_dim=2), Denoise(), near=5e-4),
        # LyCORIS adds its matrix to the layer's and multiplies once: other roundings, and so other signs
        Run("loha_dim4", "loha_dim4", LOHA, Denoise(), near=5e-4, exact=5e-4),
        Run("lokr_dim4_f4", "lokr_dim4_f4", LOKR, Denoise(), near=5e-4, exact=1e-4),
    )
}
runs = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)


@contextlib.contextmanager
def computing(threads: int, precision: str) -> Iterator[None]:
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    yield
    torch.set_num_threads(before[0])
    torch.set_float32_matmul_precision(before[1])


@pytest.fixture(scope="module")
def lent() -> Iterator[Lent]:
    from lora_train.hosts.standalone.host import StandaloneHost

    model = Model(pretrained_model_name_or_path=REFERENCE / "tiny_sd1.safetensors")
    with StandaloneHost().borrow(model, device="cpu", precision="no") as lent:
        yield lent


def replay(lent: Lent, run: Run) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of the steps and the file's tensors after them."""
    tape = load_file(REFERENCE / run.tape / "tape.safetensors")
    network = Network(run.family, lent.layers())
    restore(network, {k.removeprefix("init/"): v for k, v in tape.items() if k.startswith("init/")})
    rates = {"unet": 1e-3, "te1": 5e-4}
    groups = [{"params": params, "lr": rates[part]} for part, params in network.parts().items()]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    course, losses = run.objective.begin(lent, network), []
    with network.attached():
        for i, step in enumerate(run.steps()):
            drawn = {name: tape[f"step{i:04d}/{name}"] for name in ("latents", "noise", "noisy", "timesteps")}
            latents, noise, t = drawn["latents"], drawn["noise"], drawn["timesteps"]
            assert torch.equal(lent.schedule.noisy(latents, noise, t), drawn["noisy"])
            loss = course.losses_at(lent, latents, noise, t, lent.encode(step["captions"])).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
    return losses, entries(network)


def apart(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    return max(float((ours[key] - theirs[key]).abs().max()) for key in theirs)


@runs
def test_a_replay_gives_the_same_losses_and_weights(lent, run):
    with computing(threads=1, precision="highest"):
        losses, ours = replay(lent, run)
    assert losses == pytest.approx([step["loss"] for step in run.steps()], abs=1e-6, rel=0)
    assert apart(ours, load(run.file)[0]) < run.exact


@runs
def test_a_replay_as_the_product_computes_is_close(lent, run):
    with computing(run.threads, precision="medium"):
        losses, ours = replay(lent, run)
    assert losses == pytest.approx([step["loss"] for step in run.steps()], abs=1e-6, rel=0)
    theirs = load(run.file)[0]
    assert apart(ours, theirs) < run.near
    off, size = (torch.cat([t.flatten() for t in ts]) for ts in
                 ([ours[key] - theirs[key] for key in theirs], theirs.values()))  # fmt: skip
    assert off.norm() < 1e-4 * size.norm()


def test_the_schedule_is_diffusers_own():
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    assert torch.equal(Schedule.scaled_linear().alphas_cumprod, theirs.alphas_cumprod)


@runs
def test_a_file_that_is_read_and_written_is_the_same_file(lent, run, tmp_path):
    """Keys, shapes, dtypes, and the hashes that sd-scripts wrote into it."""
    tensors, metadata = load(run.file)
    again = tmp_path / "again.safetensors"
    kept = {k: v for k, v in metadata.items() if not k.startswith("sshs_")}
    save(network_of(tensors, lent.layers()), again, metadata=kept, dtype=torch.float32)
    ours, written = load(again)
    assert ours.keys() == tensors.keys()
    assert all(torch.equal(ours[key], tensors[key]) for key in tensors)
    assert all(ours[key].dtype is tensors[key].dtype for key in tensors)
    if metadata["ss_network_module"] == "lycoris.kohya":  # which has a hash of its own
        metadata = {k: v for k, v in metadata.items() if not k.startswith("sshs_")}
    assert metadata.items() <= written.items()


@runs
def test_the_layers_are_those_of_the_file(lent, run):
    ours, theirs = entries(Network(run.family, lent.layers())), load(run.file)[0]
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_a_run_goes_on_from_a_file(lent):
    file = RUNS["locon_dim4_conv2"].file
    theirs = load(file)[0]
    for family in (Lora(dim=4, conv_dim=2, weights=file), Lora(weights=file, dim_from_weights=True)):
        ours = entries(begun(family, lent.layers()))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("tiny_sd1.safetensors", "this is a whole checkpoint"),
        ("tiny_sd1.yaml", "is not a .safetensors file"),
        ("data", "expected a .safetensors file, or a folder with adapter_model"),
    ],
)
def test_a_file_that_is_no_lora_is_called_what_it_is(file, kind):
    with pytest.raises(Mistake, match=kind):
        load(REFERENCE / file)
