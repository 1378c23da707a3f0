"""The faster multiplication is taken where it is as exact, and leaves no trace."""

import pytest
import torch

from lora_train.train import arithmetic
from lora_train.train.arithmetic import error, quick

CPU = torch.device("cpu")
precision = torch.get_float32_matmul_precision


@pytest.fixture(autouse=True)
def _highest():
    before = precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def test_it_is_taken_and_given_back():
    with quick(CPU):
        assert precision() == ("medium" if error() <= 1e-5 else "highest")
    assert precision() == "highest"


def test_what_was_set_before_comes_back_after_an_error():
    torch.set_float32_matmul_precision("high")
    with pytest.raises(KeyboardInterrupt), quick(CPU):
        raise KeyboardInterrupt
    assert precision() == "high"


def test_a_gpu_is_left_alone_for_there_it_would_be_tf32():
    with quick(torch.device("cuda")):
        assert precision() == "highest"


def test_a_cpu_that_takes_bfloat16_for_it_is_found_out(monkeypatch):
    monkeypatch.setattr(arithmetic, "_products", lambda t: [_rounded(t[0]) @ _rounded(t[1]).mT])
    assert 1e-3 < error() < 1e-2
    with quick(CPU):
        assert precision() == "highest"


def _rounded(t):
    return t.bfloat16().to(t) if t.dtype is torch.float32 else t


def test_tf32_would_be_found_out_too(monkeypatch):
    def products(t):
        cut = [
            (u.view(torch.int32) & ~0x1FFF).view(torch.float32) if u.dtype is torch.float32 else u for u in t
        ]
        return [cut[0] @ cut[1].mT]

    monkeypatch.setattr(arithmetic, "_products", products)
    assert error() > 1e-5


def test_a_host_that_chose_by_the_newer_settings_keeps_its_choice(monkeypatch):
    def mixed():
        raise RuntimeError("PyTorch is checking whether allow_tf32_new is enabled")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", mixed)
    asked = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    with quick(CPU):
        pass
    assert asked == []


def test_the_check_draws_from_no_one_elses_generator():
    before = torch.random.get_rng_state()
    error()
    assert torch.equal(before, torch.random.get_rng_state())
