"""Options of noise, timesteps, losses and masks."""

from __future__ import annotations

from lora_train.compat.rules import Refused, Rules, ignored, only, unless_off

LOSS: Rules = {
    "min_snr_gamma": unless_off("objective.min_snr_gamma"),
    "loss_type": only("loss_type", "l2"),
    "noise_offset_type": only("noise_offset_type", "original"),  # kohya_ss' own
    **ignored("the loss is l2", "huber_schedule", "huber_c", "huber_scale", off=("snr", "0.1", "1", "1.0")),
    **ignored("there is no multires noise", "multires_noise_discount", off=("0.3",)),
    **dict.fromkeys(
        (
            "noise_offset_random_strength", "adaptive_noise_scale",
            "multires_noise_iterations", "ip_noise_gamma", "ip_noise_gamma_random_strength",
            "zero_terminal_snr", "debiased_estimation_loss", "v_pred_like_loss",
            "scale_v_pred_loss_like_noise_pred",
        ),
        Refused(),
    ),
}  # fmt: skip
