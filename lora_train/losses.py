"""What a wrong prediction costs: the losses of elements, and their mean over a sample."""

from __future__ import annotations

from torch import Tensor


def averaged(elements: Tensor, masks: Tensor | None = None) -> Tensor:
    """[B] float32: the mean of each sample's elements.

    Args:
        elements: [B, C, h, w], the loss of each.
        masks: [B, 1, h, w], how much each place counts; None: all the same. The mean is over all places, as
            in sd-scripts.
    """
    if masks is not None:
        elements = elements * masks.to(elements)
    return elements.flatten(1).mean(1)
