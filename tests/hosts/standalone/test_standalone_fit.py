"""What a step will need is known before a weight is read, and a run is made to fit into what is free."""

import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

from lora_train.adapters.network import Network
from lora_train.data.memory import Memory
from lora_train.data.plan import plan
from lora_train.hosts.standalone import loan
from lora_train.hosts.standalone.host import StandaloneHost
from lora_train.job import assemble
from lora_train.run import fit
from lora_train.run.footprint import MB, SPARE, footprint
from lora_train.train.recompute import recomputed


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures" / "1_cat"
    folder.mkdir(parents=True)
    for i in range(4):
        Image.effect_noise((128, 128), 50).convert("RGB").save(folder / f"{i}.png")
    return folder.parent


def asked(checkpoint, pictures, **more):
    usual = {
        "model.pretrained_model_name_or_path": checkpoint, "data.train_data_dir": pictures,
        "data.resolution": 128, "data.batch_size": 4, "training.seed": 0,
    }  # fmt: skip
    job, _, place = assemble({**usual, **{path.replace("__", "."): value for path, value in more.items()}})
    return job, place, plan(job.data, decode=False, memory=Memory())


def really_kept(job, *, again) -> float:
    """Megabytes, counted on the real model; under checkpointing, of what stays between the passes."""
    seen = {}

    def keep(tensor):
        seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with StandaloneHost().borrow(job.model, device="cpu", precision="no") as lent:
        network = Network(job.network, lent.layers())
        weights = [p for slot in lent.slots.values() for p in slot.module.parameters() if not p.is_meta]
        own = {p.untyped_storage().data_ptr() for p in (*network.parameters(), *weights)}
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with network.attached(), recomputed(lent.checkpoint_blocks() if again else []), hooks:
            cond = lent.encode(["a"] * 4)
            lent.denoise(torch.randn(4, 4, 16, 16), torch.zeros(4, dtype=torch.long), cond).sum()
    return sum(t.untyped_storage().nbytes() for at, t in seen.items() if at not in own) / MB


@pytest.mark.parametrize("arch", ["sd2", "sdxl"])
def test_what_a_step_keeps_is_foretold(small, pictures, arch):
    job, _, planned = asked(small[arch], pictures)
    found = footprint(job, StandaloneHost(), planned)
    assert found.kept == pytest.approx(really_kept(job, again=False), rel=0.15)
    assert really_kept(job, again=True) < found.between + found.block < 0.7 * found.kept
    parts = Network(job.network, StandaloneHost().sketch(job.model, precision="no").__enter__().layers())
    count = sum(p.numel() for p in parts.parameters())
    assert found.learned == pytest.approx(count * 16 / MB, rel=0.01), "AdamW: weight, gradient, two means"


def test_a_file_is_not_read_for_it(small, pictures, monkeypatch):
    monkeypatch.setattr(loan, "hashes", lambda path: pytest.fail(f"{path} is hashed"))
    with StandaloneHost().sketch(asked(small["sd2"], pictures)[0].model, precision="no") as sketch:
        assert sketch.hashed == [None, None]


def test_half_precision_takes_half(small, pictures):
    whole, half = (
        footprint(asked(small["sd2"], pictures, training__mixed_precision=p)[0], StandaloneHost(),
                  asked(small["sd2"], pictures)[2])
        for p in ("no", "bf16")
    )  # fmt: skip
    assert half.weights == pytest.approx(whole.weights / 2, rel=0.01)
    assert half.learned == whole.learned


def test_a_run_is_made_to_fit(small, pictures, monkeypatch, caplog):
    job, place, planned = asked(small["sd2"], pictures, place__fit_memory=True)
    host = StandaloneHost()
    found = footprint(job, host, planned)
    fixed = found.weights + found.learned

    def with_free(kept):
        monkeypatch.setattr(fit, "free", lambda device: SPARE * (fixed + kept))
        return fit.fitted(job, place, host, planned)

    assert with_free(found.kept + 1) == (place, None)
    chosen, most = with_free(found.between + found.block + 0.1)
    assert (chosen.gradient_checkpointing, most) == (True, None)
    one = footprint(job, host, planned, 1)
    chosen, most = with_free(one.between + one.block + 0.1)
    assert (chosen.gradient_checkpointing, most) == (True, 1)
    with caplog.at_level("WARNING"):
        with_free(0)
    assert "more than is free" in caplog.messages[-1]


def test_the_system_tells_what_is_free():
    assert fit.free("cpu") > 100
