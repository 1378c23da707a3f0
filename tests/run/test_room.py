"""Memory that runs out in a step costs time, and nothing else."""

import contextlib

import pytest
import torch
from safetensors.torch import load_file

from lora_train.errors import Mistake
from tests.tiny import Tiny, TinyHost

FULL = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    MemoryError(),
]


class Small(TinyHost):
    """A host whose model takes so many samples at a time."""

    def __init__(self, room, error=FULL[0]):
        super().__init__()
        self.room, self.error, self.seen = room, error, []

    @contextlib.contextmanager
    def borrow(self, *args, **more):
        with super().borrow(*args, **more) as lent:
            usual = lent.denoise

            def denoise(x_t, t, cond):
                self.seen.append(len(x_t))
                if len(x_t) > self.room:
                    raise self.error
                return usual(x_t, t, cond)

            lent.denoise = denoise
            yield lent


# AdamW makes a whole step of a gradient that is nothing but rounding
MANY = {"data__batch_size": 4, "training__max_train_steps": 4, "training__gradient_accumulation_steps": 2,
        "optimizer__kind": "sgdnesterov", "lr__learning_rate": 1.0}  # fmt: skip


@pytest.mark.parametrize(
    ("error", "more"),
    [
        (FULL[0], {}),
        (FULL[1], {"network__train_unet_only": True}),
        (FULL[2], {"place__cache_latents": False}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_step_that_does_not_fit_is_taken_in_pieces_with_the_same_result(trained, error, more, caplog):
    host = Small(1, error)
    with caplog.at_level("WARNING"):
        whole, pieces = trained("a", **MANY, **more), trained("b", host=host, **MANY, **more)
    assert host.seen[:3] == [4, 2, 1]
    assert set(host.seen[3:]) == {1}, "it is not tried again in every step"
    assert len([r for r in caplog.records if "Not enough memory" in r.message]) == 2
    wanted, found = load_file(whole.file), load_file(pieces.file)
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)


def test_nothing_of_what_failed_is_left_in_the_gradient(trained):
    """Memory runs out in the second batch, when the first one's gradient is there already."""
    host = Small(4)
    usual = Small.borrow

    class Late(Small):
        count = 0

        @contextlib.contextmanager
        def borrow(self, *args, **more):
            with usual(self, *args, **more) as lent:
                inner = lent.denoise

                def denoise(x_t, t, cond):
                    Late.count += 1
                    if Late.count == 2:
                        raise FULL[0]
                    return inner(x_t, t, cond)

                lent.denoise = denoise
                yield lent

    whole, pieces = trained("a", host=host, **MANY), trained("b", host=Late(4), **MANY)
    wanted, found = load_file(whole.file), load_file(pieces.file)
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)


def test_a_single_sample_that_does_not_fit_ends_the_run_with_what_to_do(trained):
    with pytest.raises(Mistake, match=r"needs more memory than is free; set place\.gradient_checkpointing"):
        trained("a", host=Small(0), **MANY)


def test_a_batch_falls_into_its_samples():
    from lora_train.data.batches import Batch
    from lora_train.host import Cond

    lent = Tiny()
    captions = ["a", "bb", "ccc", "dddd", "eeeee"]
    whole = Batch(torch.randn(5, 4, 8, 8), captions, lent.encode(captions), [*range(5)], captions,
                  weights=torch.rand(5), sizes=torch.rand(5, 6), masks=torch.rand(5, 1, 8, 8))  # fmt: skip
    pieces = whole.pieces(2)
    assert [p.captions for p in pieces] == [captions[:2], captions[2:4], captions[4:]]
    assert whole.pieces(5) == [whole]
    for name in ("latents", "weights", "sizes", "masks"):
        assert torch.equal(torch.cat([vars(p)[name] for p in pieces]), vars(whole)[name])
    assert torch.equal(Cond.stack([p.conds for p in pieces]).context, whole.conds.context)


@pytest.mark.parametrize(
    "more",
    [
        {"place__cpu_offload_checkpointing": True},
        {"place__torch_compile": True, "place__dynamo_backend": "eager"},
    ],
    ids=["offload", "compile"],
)
def test_what_is_traded_for_memory_or_time_changes_nothing(trained, more):
    usual = {"training__max_train_steps": 2, "place__gradient_checkpointing": True}
    one, other = trained("a", **usual), trained("b", **usual, **more)
    wanted, found = load_file(one.file), load_file(other.file)
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6)


def test_a_host_that_knows_no_shapes_says_so_and_trains(trained, caplog):
    with caplog.at_level("INFO"):
        trained("a", training__max_train_steps=1, place__fit_memory=True)
    assert [r for r in caplog.records if "not known before it is tried" in r.message]
