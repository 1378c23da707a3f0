"""Options of datasets, captions and validation."""

from __future__ import annotations

from lora_train.compat.rules import Refused, Rules, Translated, ignored, named

PICTURES: Rules = {
    "dataset_repeats": Translated(lambda value: {"data.num_repeats": value}),
    "caption_extention": named("data.caption_extension"),
    "debug_dataset": Refused("lora-train check shows what would be trained on"),
    **ignored(
        "pictures are cached, or loaded in a thread of their own", "max_data_loader_n_workers",
        "persistent_data_loader_workers", "cache_info"),
    **dict.fromkeys(
        (
            "dataset_class",
        ),
        Refused(),
    ),
}  # fmt: skip

OF_DATASETS = (  # of them, those that a --dataset_config may hold
    "cache_info", "custom_attributes", "network_multiplier",
)  # fmt: skip
