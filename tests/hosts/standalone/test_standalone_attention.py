"""Our attention is torch's, computed otherwise."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

pytest.importorskip("diffusers")
from lora_train.hosts.standalone import attention as ours  # noqa: E402
from lora_train.hosts.standalone.attention import Processor, Tiled, attention  # noqa: E402

SHAPES = [(64, 64, 8), (100, 77, 40), (1, 1, 8), (300, 520, 16)]


@pytest.fixture
def medium():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


def inputs(rows, columns, width, dtype):
    """q, k, v as a denoiser has them: heads inside."""
    made = (torch.randn(2, n, 3, width).to(dtype).transpose(1, 2) for n in (rows, columns, columns))
    return [t.requires_grad_() for t in made]


def results(product, qkv, grad):
    out = product(*qkv)
    return [out.detach(), *torch.autograd.grad(out, qkv, grad.to(out))]


def off(ours, theirs):
    return max(float((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-3)) for a, b in
               zip(ours, theirs, strict=True))  # fmt: skip


@pytest.mark.usefixtures("medium")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("product", [attention, Tiled.apply])
def test_values_and_gradients_are_those_of_torchs_own(product, shape):
    qkv = inputs(*shape, torch.float32)
    grad = torch.randn(2, 3, shape[0], shape[2])
    exact = results(F.scaled_dot_product_attention, [t.detach().double().requires_grad_() for t in qkv], grad)
    assert off(results(product, qkv, grad), exact) < 3e-6


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("product", [attention, Tiled.apply])
def test_in_bfloat16_it_is_nearly_as_near_to_the_truth_as_torchs_own(product, shape):
    qkv = inputs(*shape, torch.bfloat16)
    grad = torch.randn(2, 3, shape[0], shape[2]).bfloat16()
    exact = results(F.scaled_dot_product_attention, [t.detach().double().requires_grad_() for t in qkv], grad)
    theirs = off(results(F.scaled_dot_product_attention, qkv, grad), exact)
    assert off(results(product, qkv, grad), exact) < 2 * theirs + 2e-3


def test_many_scores_in_bfloat16_go_in_tiles_and_few_do_not(monkeypatch):
    asked = []
    monkeypatch.setattr(Tiled, "apply", lambda *qkv: asked.append(qkv[0].shape[2]) or qkv[0])
    monkeypatch.setattr(ours, "FEW", 64 * 64)
    for rows in (64, 65):
        attention(*inputs(rows, 64, 8, torch.bfloat16))
    assert asked == [65]


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_at_highest_precision_a_layer_is_diffusers_own_to_the_bit(precision):
    from diffusers.models.attention_processor import Attention, AttnProcessor2_0

    layer, x, context = Attention(32, 48, heads=4, dim_head=8), torch.randn(2, 50, 32), torch.randn(2, 7, 48)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        made = []
        for processor in (AttnProcessor2_0(), Processor()):
            layer.set_processor(processor)
            made.append(layer(x, encoder_hidden_states=context))
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(*made) if precision == "highest" else torch.allclose(*made, atol=1e-6)


def test_the_gradient_is_the_same_when_a_block_is_run_again():
    from torch.utils.checkpoint import checkpoint

    qkv, grad = inputs(300, 300, 16, torch.bfloat16), torch.randn(2, 3, 300, 16)
    once = results(Tiled.apply, qkv, grad)
    again = results(lambda *t: checkpoint(Tiled.apply, *t, use_reentrant=False), qkv, grad)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
