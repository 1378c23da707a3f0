"""Strengths by part and block: what a network adds at them is its delta, layer by layer, times them."""

from __future__ import annotations

import pytest
import torch

from lora_train.adapters.network import Network
from lora_train.blocks import BLOCKS, BlockWeights, block_id
from tests.test_laws import CAPTIONS, families, made, seen, stirred
from tests.tiny import Tiny

EACH = BlockWeights(tuple(round(0.3 * i % 2 - 0.5, 3) for i in range(len(BLOCKS))))  # -0.5 to 1.4


def baked(network: Network, te: float, unet: float, blocks: BlockWeights) -> Tiny:
    """Another model, into whose weights it is worked by hand."""
    other = Tiny()
    there = {layer.key: layer for layer in other.layers()}
    with torch.no_grad():
        for key, adapter in network.adapters.items():
            block = block_id(network.layers[key].part, network.layers[key].path)
            times = 1.0 if block is None else blocks.values[BLOCKS.index(block)]
            times *= te if block == "BASE" else unet
            there[key].weight().add_(times * network.delta(key))
            if adapter.bias() is not None:
                there[key].bias.add_(times * adapter.bias())
    return other


@families
@pytest.mark.parametrize("more", [{}, {"dora_wd": True}, {"train_norm": True}])
def test_weighed_by_blocks_is_a_model_baked_so(family, more):
    lent = Tiny()
    network = stirred(Network(made(family, **more), lent.layers())).eval()
    other = baked(network, 0.7, -1.2, EACH)
    plain = seen(lent)
    network.weigh(0.7, -1.2, EACH)
    with torch.no_grad(), network.attached():
        torch.testing.assert_close(seen(lent), seen(other), rtol=2e-5, atol=2e-5)
        before = network.strengths
        network.weigh(1, 1)
        assert network.strengths == dict.fromkeys(network.layers, 1)
        network.strengths = before
        torch.testing.assert_close(seen(lent), seen(other), rtol=2e-5, atol=2e-5)
        network.weigh(0, 0, EACH)
        assert torch.equal(seen(lent), plain)


@pytest.mark.parametrize("blocks", [{"BASE"}, {"IN04", "M00"}])
def test_a_block_at_0_is_off_to_the_bit(blocks):
    """Even where what its adapters add is no number."""
    lent = Tiny()
    network = Network(made("lora"), lent.layers())
    for key, adapter in network.adapters.items():
        off = block_id(network.layers[key].part, network.layers[key].path) not in blocks
        torch.nn.init.constant_(adapter.up, float("inf") if off else 0.01)
    network.weigh(1, 1, BlockWeights(tuple(float(block in blocks) for block in BLOCKS)))
    with torch.no_grad(), network.attached():
        assert torch.isfinite(seen(lent)).all()
        own = torch.equal(lent.encode(CAPTIONS).context, Tiny().encode(CAPTIONS).context)
    assert own == ("BASE" not in blocks)


def test_what_learns_at_0_has_a_gradient():
    lent = Tiny()
    network = stirred(Network(made("lora"), lent.layers()))
    network.strength = 0.0
    with network.attached():
        seen(lent).sum().backward()
    assert network.silent() == []
