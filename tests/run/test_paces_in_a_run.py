"""Rates by block and by factor while training."""

from __future__ import annotations

import torch
from safetensors.torch import load_file


def test_one_step_is_as_long_as_the_rate_says(trained):
    """Adam's first step is the learning rate, whatever the gradient (arXiv:1412.6980, section 2.1)."""
    how = {"training__max_train_steps": 1, "lr__learning_rate": 1e-3, "network__loraplus_unet_lr_ratio": 8,
           "network__down_lr_weight": "1,0.5", "network__loraplus_text_encoder_lr_ratio": 2}  # fmt: skip
    found = load_file(trained("a", **how).file)
    wanted = {"lora_unet_down_blocks_0_attentions_0": 4e-3, "lora_unet_mid_block_attentions_0": 8e-3,
              "lora_te_text_model_encoder_layers_0": 2e-3}  # fmt: skip
    for lead, step in wanted.items():
        ups = [t for name, t in found.items() if name.startswith(lead) and name.endswith("lora_up.weight")]
        assert ups
        for up in ups:
            torch.testing.assert_close(up.abs().max(), torch.tensor(step), rtol=1e-3, atol=0)


def test_rates_of_blocks_and_factors_go_on_from_a_state(trained):
    how = {"network__loraplus_lr_ratio": 4, "network__up_lr_weight": "sine+.1", "network__conv_dim": 2}
    whole = load_file(trained("whole", **how).file)
    stopped = trained("halves", stop=4, output__save_state=True, **how)
    again = load_file(trained("halves", place__resume=stopped.state, **how).file)
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
