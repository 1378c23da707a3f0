"""What a saved file says about the pictures: the `ss_*` entries about data, as sd-scripts writes them."""

from __future__ import annotations

import collections
import json

from lora_train.data.batches import numbers
from lora_train.data.buckets import Size
from lora_train.data.folder import Item, Planned, Source, Subset


def facts(planned: Planned, accumulation: int = 1, world: int = 1) -> dict[str, object]:
    """Metadata key -> value, nested ones as JSON already; the writer makes text of the others.

    As sd-scripts has it, datasets given one by one are in `ss_datasets`, a folder of folders in flat entries.
    """
    n = numbers(planned, accumulation * world)
    first = planned.sources[0].dataset
    tried = {"ss_num_validation_images": sum(len(source.items) for source in planned.held)}
    if not planned.pictures:
        size, batch = (first.resolution.width, first.resolution.height), first.batch_size
        return {
            **tried, "ss_num_train_images": 0, "ss_num_reg_images": 0, "ss_num_batches_per_epoch": n.batches,
            "ss_batch_size_per_device": batch, "ss_total_batch_size": batch * accumulation * world,
            "ss_resolution": size, "ss_tag_frequency": json.dumps({}), "ss_cache_latents": False,
        }  # fmt: skip
    shared = {
        **tried,
        "ss_num_train_images": sum(_samples(source, reg=False) for source in planned.sources),
        "ss_num_reg_images": sum(_samples(source, reg=True) for source in planned.sources),
        "ss_num_batches_per_epoch": n.batches,
        "ss_caption_dropout_rate": first.caption_dropout_rate,
        "ss_caption_dropout_every_n_epochs": first.caption_dropout_every_n_epochs,
        "ss_caption_tag_dropout_rate": first.caption_tag_dropout_rate,
        "ss_face_crop_aug_range": first.face_crop_aug_range,
        "ss_prior_loss_weight": planned.prior.prior_loss_weight,
        "ss_resize_interpolation": first.resize_interpolation,
        "ss_dataset_dirs": json.dumps(dataset_dirs(planned)),
        "ss_tag_frequency": json.dumps(tag_frequency(planned.sources)),
    }
    if not planned.folders:
        return {**shared, "ss_datasets": json.dumps([dataset(s) for s in planned.sources])}
    return {
        **shared,
        "ss_batch_size_per_device": first.batch_size,
        "ss_total_batch_size": first.batch_size * accumulation * world,
        "ss_resolution": (first.resolution.width, first.resolution.height),
        "ss_color_aug": first.color_aug,
        "ss_flip_aug": first.flip_aug,
        "ss_random_crop": first.random_crop,
        "ss_shuffle_caption": first.shuffle_caption,
        "ss_keep_tokens": first.keep_tokens,
        "ss_enable_bucket": first.enable_bucket,
        "ss_bucket_no_upscale": first.enable_bucket and first.bucket_no_upscale,
        "ss_min_bucket_reso": first.min_bucket_reso if first.enable_bucket else None,
        "ss_max_bucket_reso": first.max_bucket_reso if first.enable_bucket else None,
        "ss_reg_dataset_dirs": json.dumps(dataset_dirs(planned, reg=True)),
        "ss_bucket_info": json.dumps(bucket_info(planned.sources[0])),
    }


def dataset_dirs(planned: Planned, *, reg: bool = False) -> dict[str, dict[str, float]]:
    """Folder name -> repeats and pictures, of regularisation or of the others; a name that comes again gets
    " (2)"."""
    dirs: dict[str, dict[str, float]] = {}
    for source in planned.sources:
        for folder, items in _by_folder(source):
            if items[0].subset.is_reg is not reg:
                continue
            name, number = folder, 2
            while name in dirs:
                name, number = f"{folder} ({number})", number + 1
            dirs[name] = {"n_repeats": _repeats(items[0].subset), "img_count": len(items)}
    return dirs


def tag_frequency(sources: tuple[Source, ...]) -> dict[str, dict[str, int]]:
    """Folder name -> tag -> pictures that have it. A folder in several datasets counts once."""
    found: dict[str, dict[str, int]] = {}
    for source in sources:
        here: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
        for folder, items in _by_folder(source):
            tags = (tag.strip().lower() for item in items for tag in item.caption.split(","))
            here[folder].update(tag for tag in tags if tag)
        for folder, tags in here.items():
            found.setdefault(folder, dict(tags))
    return found


def bucket_info(source: Source) -> dict | None:
    """Samples in each bucket, and how far pictures are from its aspect ratio; None without buckets."""
    if not source.dataset.enable_bucket:
        return None
    counts: dict[Size, int] = collections.Counter()
    for share in source.shares:
        counts[share.bucket] += share.count
    buckets = enumerate(sorted(counts.items()))
    return {
        "buckets": {str(i): {"resolution": list(b), "count": count} for i, (b, count) in buckets},
        "mean_img_ar_error": sum(i.fit.error(i.size) for i in source.items) / len(source.items),
    }


def dataset(source: Source) -> dict:
    """One entry of `ss_datasets`."""
    d = source.dataset
    return {
        "is_dreambooth": not any(s.metadata_file for s in d.subsets),
        "batch_size_per_device": d.batch_size,
        "num_train_images": _samples(source, reg=False),
        "num_reg_images": _samples(source, reg=True),
        "resolution": [d.resolution.width, d.resolution.height],
        "enable_bucket": d.enable_bucket,
        "min_bucket_reso": d.min_bucket_reso if d.enable_bucket else None,
        "max_bucket_reso": d.max_bucket_reso if d.enable_bucket else None,
        "tag_frequency": tag_frequency((source,)),
        "bucket_info": bucket_info(source),
        "resize_interpolation": d.resize_interpolation,
        "subsets": [_subset(folder, items) for folder, items in _by_folder(source)],
    }


SAME = (  # entries of a subset that are called what the setting is called
    "color_aug", "flip_aug", "random_crop", "shuffle_caption", "keep_tokens", "keep_tokens_separator",
    "secondary_separator", "enable_wildcard", "caption_prefix", "caption_suffix", "resize_interpolation",
)  # fmt: skip


def _subset(folder: str, items: list[Item]) -> dict:
    s = items[0].subset
    found = {
        "img_count": len(items),
        "num_repeats": _repeats(s),
        **{name: vars(s)[name] for name in SAME},
        "image_dir": folder,
    }
    if s.metadata_file is not None:
        return {**found, "metadata_file": s.metadata_file.name}
    return {**found, "class_tokens": s.class_tokens, "is_reg": s.is_reg}


def _repeats(subset: Subset) -> float:
    """Whole ones without a fraction, as sd-scripts has them."""
    return int(subset.num_repeats) if subset.num_repeats == int(subset.num_repeats) else subset.num_repeats


def _samples(source: Source, *, reg: bool) -> int:
    """Samples of an epoch; of regularisation, before they are balanced against the others."""
    if reg:
        own = collections.Counter(id(item.subset) for item in source.items if item.subset.is_reg)
        subsets = {id(subset): subset for subset in source.dataset.subsets}
        return sum(count * round(subsets[which].num_repeats) for which, count in own.items())
    return sum(s.count for s in source.shares if not source.items[s.items[0]].subset.is_reg)


def _by_folder(source: Source) -> list[tuple[str, list[Item]]]:
    """A source's items, subset by subset, under the folder's bare name."""
    return [
        (items[0].name.rpartition("/")[0], items)
        for subset in source.dataset.subsets
        if (items := [item for item in source.items if item.subset is subset])
    ]
