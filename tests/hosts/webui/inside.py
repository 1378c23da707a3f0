"""What every host has to do, asked of the real WebUI; these run in its process (see test_webui.py)."""

import contextlib

import pytest
import torch
from safetensors.torch import load_file

from lora_train.host import Model
from lora_train.hosts.webui.host import WebuiHost
from lora_train.job import assemble
from lora_train.run.session import run
from tests.hosts.contract import Contract


def state(model: torch.nn.Module) -> tuple:
    """All that a run has to leave as it was."""
    modules = list(model.modules())
    return (
        {name: (value.dtype, value.device, value.clone()) for name, value in model.state_dict().items()},
        [(len(m._forward_hooks), len(m._forward_pre_hooks), m.training, sorted(vars(m))) for m in modules],
        [p.requires_grad for p in model.parameters()],
        torch.get_rng_state(),
    )


def same(before: tuple, after: tuple) -> bool:
    weights, others = before[0], after[0]
    assert weights.keys() == others.keys()
    pairs = [(weights[name], others[name]) for name in weights]
    kept = all(a[:2] == b[:2] and torch.equal(a[2], b[2]) for a, b in pairs)
    return kept and before[1:3] == after[1:3] and torch.equal(before[3], after[3])


@pytest.fixture
def model():
    from modules import shared

    return shared.sd_model


class TestContract(Contract):
    @pytest.fixture
    def lent(self):
        from modules import call_queue

        with call_queue.queue_lock, WebuiHost().borrow(Model(), device="auto", precision="no") as lent:
            yield lent


@pytest.mark.parametrize("how", ["to the end", "stopped", "failed", "checkpointed"])
def test_a_run_leaves_the_model_and_the_options_as_they_were(model, tmp_path, dataset, how):
    from modules import call_queue, shared

    values = {
        "model.pretrained_model_name_or_path": model.sd_checkpoint_info.filename,
        "data.train_data_dir": dataset, "data.resolution": 64, "training.max_train_steps": 4,
        "training.seed": 1, "network.conv_dim": 2, "output.output_dir": tmp_path, "lr.learning_rate": 0.01,
        "place.gradient_checkpointing": how == "checkpointed",
    }  # fmt: skip
    calls = []

    def stop():
        calls.append(1)
        if how == "failed" and len(calls) == 2:
            raise RuntimeError("on purpose")
        return how == "stopped"

    before, options = state(model), dict(shared.opts.data)
    fails = pytest.raises(RuntimeError, match="on purpose") if how == "failed" else contextlib.nullcontext()
    with fails, call_queue.queue_lock:
        learned = load_file(run(*assemble(values), WebuiHost(), stop=stop).file)
        assert any(name.startswith("lora_te_") for name in learned)
        assert any(t.abs().max() > 0 for name, t in learned.items() if name.endswith("lora_up.weight"))
    assert same(before, state(model))
    assert dict(shared.opts.data) == options
