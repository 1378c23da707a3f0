"""Options of datasets, captions and validation."""

from __future__ import annotations

from lora_train.compat.rules import Refused, Rules, Translated, ignored, named, off

NO_REPEATS = "dataset_repeats = 0 has no effect here: pictures are shown as their folders' names say"

PICTURES: Rules = {
    "dataset_repeats": Translated(
        lambda value: {} if off(value) else {"data.num_repeats": value},
        lambda value: [NO_REPEATS] * (str(value) == "0")),
    "caption_extention": named("data.caption_extension"),
    "debug_dataset": Refused("lora-train check shows what would be trained on"),
    "dataset_class": Refused(
        "no program of one's own is run for pictures; put them into folders, or into a metadata_file"),
    **ignored("captions are always filled up to their full length", "pad_tokens"),
    **ignored("pictures are cut in the middle, unless random_crop is set", "center_crop"),
    **ignored("pictures of the class are drawn one by one", "class_batch_size", off=("1",)),
    **ignored(
        "pictures are cached, or loaded in a thread of their own", "max_data_loader_n_workers",
        "persistent_data_loader_workers", "cache_info"),
}  # fmt: skip

OF_DATASETS = (  # of them, those that a --dataset_config may hold
    "cache_info", "custom_attributes", "network_multiplier",
)  # fmt: skip
