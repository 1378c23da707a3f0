"""Masks: which places of a sample its loss is about, and how much the others count."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from lora_train.knobs import knob
from lora_train.losses import averaged
from lora_train.objectives.objective import Objective


@dataclasses.dataclass(frozen=True)
class Masked(Objective):
    """What is done with the masks of pictures, where they have some: `data.alpha_mask` or files."""

    masked_loss: bool = knob(
        False, "Learn only from what the masks in data.conditioning_data_dir, or those that end in "
        "data.mask_suffix, show in white.", group="masks")  # fmt: skip
    unmasked_weight: float = knob(
        0.0, "How much what a mask hides counts all the same.", group="masks", low=0, high=1)  # fmt: skip
    unmasked_probability: float = knob(
        0.0, "Share of a masked picture's showings in which its mask is left out.", group="masks", low=0,
        high=1)  # fmt: skip
    normalize_masked_area_loss: bool = knob(
        False, "Count each sample the same, however little its mask shows. Else the loss is a mean over "
        "all of the picture, as in sd-scripts, and a small area counts little.", group="masks")  # fmt: skip
    masked_prior_preservation_weight: float = knob(
        0.0, "How much it costs to change what a mask hides: there the model without adapters is the target. "
        "A second prediction in each step.", group="masks", low=0, high=100)  # fmt: skip

    def masks(self, given: Tensor | None, rngs: Sequence[torch.Generator]) -> Tensor | None:
        """The masks as they are this time.

        Args:
            given: [B, 1, h, w], of a batch.
            rngs: each sample's own; drawn from only with `unmasked_probability`, and whether it has a mask
                or not.
        """
        if given is None:
            return None
        if self.unmasked_probability:
            drawn = torch.stack([torch.rand((), generator=rng) for rng in rngs])
            bare = (drawn < self.unmasked_probability).view(-1, 1, 1, 1)
            given = torch.where(bare, torch.ones_like(given), given)
        return self.softened(given)

    def softened(self, masks: Tensor) -> Tensor:
        """With what they hide counted a little."""
        return masks.clamp(min=self.unmasked_weight) if self.unmasked_weight else masks

    def mean(self, elements: Tensor, masks: Tensor | None) -> Tensor:
        """[B] float32.

        Args:
            elements: [B, C, h, w], the loss of each.
        """
        losses = averaged(elements, masks)
        if masks is None or not self.normalize_masked_area_loss:
            return losses
        # of nothing at all the loss is 0, and not 0 / 0
        area = masks.to(elements).flatten(1).mean(1).clamp(min=1 / masks[0].numel())
        return losses / area

    @property
    def preserves(self) -> bool:
        """Whether what the model predicts without adapters is asked for."""
        return self.masked_prior_preservation_weight > 0
