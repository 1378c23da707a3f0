"""Data: the folders a run learns from, and what was found in them."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Iterable

from lora_train.data.buckets import Buckets, Size
from lora_train.data.captions import CaptionRules
from lora_train.data.looks import LookRules
from lora_train.data.pictures import Picture
from lora_train.data.stays import Prior, StayRules
from lora_train.data.subject import SubjectRules
from lora_train.knobs import knob, many
from lora_train.values import shown

MOST = 1_000_000  # repeats


@dataclasses.dataclass(frozen=True)
class Rules(CaptionRules, LookRules, SubjectRules, StayRules):
    """What may be set for one folder, or further out for all of them."""

    num_repeats: float = knob(
        1.0, "Times that each picture is shown in an epoch; 0.5 shows each in every second one. Folders "
        "named like 10_name say it themselves.", group="data", low=0.001, high=MOST, basic=True)  # fmt: skip
    samples_per_epoch: int | None = knob(
        None, "Samples that a folder makes in an epoch, however many pictures it has; in place of "
        "num_repeats.", group="data", low=1, high=1_000_000_000)  # fmt: skip
    caption_extension: tuple[str, ...] = knob(
        (".txt", ".caption"), "Endings of caption files, in the order in which they are looked for.",
        group="captions")  # fmt: skip
    alpha_mask: bool = knob(
        False, "Learn only from what is not transparent, as far as it is not; colours under it are then seen "
        "as the file has them.", group="masks")  # fmt: skip
    conditioning_data_dir: pathlib.Path | None = knob(
        None, "Folder of masks for objective.masked_loss, named like their pictures: what is white in one is "
        "learned from, what is black is not. Folders such as 10_name may be in it too.", group="masks",
        place=True)  # fmt: skip
    mask_suffix: str | None = knob(
        None, "What stands behind a picture's name in that of its mask, such as -masklabel; the masks may "
        "then lie beside the pictures.", group="masks")  # fmt: skip
    validation_split: float = knob(
        0.0, "Share of each folder's pictures that is not learned from but tried: 0.1 holds a tenth out, 1 "
        "the whole folder. Regularisation pictures are never held out.", group="validation", low=0,
        high=1)  # fmt: skip
    class_tokens: str | None = knob(
        None, "Caption of pictures without a caption file; folders named like 10_name say it themselves.",
        group="captions")  # fmt: skip

    def check(self) -> Iterable[str]:
        yield from CaptionRules.check(self)
        yield from LookRules.check(self)
        endings = self.caption_extension
        if not endings or not all(re.fullmatch(r"\.?\w[^/\\]*", ending) for ending in endings):
            yield f"caption_extension = {','.join(endings)}: expected endings such as .txt,.caption"
        suffix, files = self.mask_suffix, self.conditioning_data_dir or self.mask_suffix
        if suffix is not None and (not suffix.strip() or re.search(r"[/\\]", suffix)):
            yield f"mask_suffix = {shown(suffix)}: expected what stands behind a name, such as -masklabel"
        if self.alpha_mask and files:
            yield "alpha_mask: expected none beside masks of their own; leave one out"


@dataclasses.dataclass(frozen=True)
class Subset(Rules):
    """One folder of pictures."""

    image_dir: pathlib.Path | None = knob(None, "Folder of the pictures.", group="data", place=True)
    metadata_file: pathlib.Path | None = knob(
        None, "JSON file of captions, {name: {caption, tags}}, in place of caption files; names are those of "
        "pictures in image_dir, or whole paths.", group="captions", place=True)  # fmt: skip
    is_reg: bool = knob(
        False, "Regularisation: pictures of the class, shown as often as the others, that keep the model "
        "from forgetting it.", group="regularisation")  # fmt: skip

    @property
    def call(self) -> str | None:
        return None if self.is_reg else self.trigger_word

    def told(self, caption: str) -> str:
        """The caption of a picture whose own is this, be it of several lines."""
        if self.is_reg or not (self.instance_prompt or self.instance_token):
            return caption
        return "\n".join(map(self.of_subject, caption.split("\n")))

    def check(self) -> Iterable[str]:
        yield from super().check()
        if not self.is_reg:
            yield from self.lacks()
        if self.is_reg and self.metadata_file:
            yield (
                "metadata_file: expected none for regularisation pictures, as in sd-scripts: their repeats "
                "are balanced by folder; give them a folder with caption files or class_tokens"
            )


@dataclasses.dataclass(frozen=True)
class Layout(Buckets, Rules):
    """What may be set for one dataset, or for all of them."""

    validation_seed: int | None = knob(
        None, "Which pictures are held out; the same ones as sd-scripts' with this seed. Empty: as 0.",
        group="validation", low=0, high=2**63 - 1)  # fmt: skip
    batch_size: int = knob(
        1, "Pictures in one batch; all of one size.", group="data", low=1, high=4096, aka="train_batch_size",
        basic=True)  # fmt: skip

    def check(self) -> Iterable[str]:
        yield from Buckets.check(self)
        yield from Rules.check(self)


@dataclasses.dataclass(frozen=True)
class Dataset(Layout):
    """Folders that share batches."""

    subsets: tuple[Subset, ...] = many(Subset, "Folders of pictures.", group="data")


@dataclasses.dataclass(frozen=True)
class Data(Layout, Prior):
    """What to learn from: one folder of folders, or datasets one by one."""

    train_data_dir: pathlib.Path | None = knob(
        None, "Folder with folders of pictures named like 10_name (10 repeats; name is the caption where "
        "there is no caption file), or with the pictures themselves.",
        group="data", place=True, basic=True)  # fmt: skip
    in_json: pathlib.Path | None = knob(
        None, "JSON file of captions for the pictures in train_data_dir; see metadata_file.",
        group="captions", place=True)  # fmt: skip
    reg_data_dir: pathlib.Path | None = knob(
        None, "Folder with folders of regularisation pictures, named like 1_dog.", group="regularisation",
        place=True)  # fmt: skip
    inpainting_masks: int | None = knob(
        None, "Of a model made for inpainting: how many different masks a picture gets, so that what is left "
        "of it is encoded once for each and kept. Empty: another mask each time.", group="masks", low=1,
        high=10_000)  # fmt: skip
    skip_unreadable: bool = knob(
        False, "Leave out pictures and captions that cannot be read, with a line for each, rather than "
        "refuse to begin.", group="data")  # fmt: skip
    datasets: tuple[Dataset, ...] = many(Dataset, "Datasets with settings of their own.", group="data")

    def check(self) -> Iterable[str]:
        if self.in_json and self.reg_data_dir:
            yield (
                "reg_data_dir: expected none beside in_json, as in sd-scripts; give both as datasets, the "
                "regularisation pictures with is_reg"
            )
        if self.datasets:  # each checks what it inherits from here
            for name in ("train_data_dir", "reg_data_dir", "in_json"):
                if vars(self)[name] is not None:
                    yield f"{name} = {vars(self)[name]}: expected none beside datasets; leave one out"
            return
        yield from super().check()
        yield from self.lacks()

    def changing(self) -> list[str]:
        """Settings, by their last word, that show a picture as no cache can hold it."""
        own = [subset for dataset in self.datasets for subset in dataset.subsets] or [self]
        names = ("color_aug", "random_crop", "rotate_aug", "face_crop_aug_range")
        return [name for name in names if any(vars(rules)[name] and not rules.fixed for rules in own)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item(Picture):
    """A picture, what is said of it, and the rules of its folder."""

    caption: str  # before the rules
    own: str = ""  # as found, before instance_prompt and the like
    subset: Subset
    twin: Item | None = None  # the other of its pair, of the same size
    strength: float = 1.0  # of the adapter while it is learned from


@dataclasses.dataclass(frozen=True)
class Share:
    """Pictures of one folder in one bucket, and how many samples of an epoch they make together."""

    bucket: Size
    items: tuple[int, ...]  # places in the source's items
    count: int

    def times(self, turn: int) -> tuple[int, int, int]:
        """(times that each is shown, how many once more, where among them those begin) in an epoch: they are
        taken in turn, so that after a while all were shown equally often."""
        each, more = divmod(self.count, len(self.items))
        return each, more, turn * more % len(self.items)


@dataclasses.dataclass(frozen=True)
class Source:
    """A dataset with its pictures; see plan.sourced."""

    dataset: Dataset
    items: tuple[Item, ...]
    shares: tuple[Share, ...]

    def unused(self) -> list[Item]:
        """Those that make no sample."""
        used = {i for share in self.shares for i in share.items}
        return [item for i, item in enumerate(self.items) if i not in used]


@dataclasses.dataclass(frozen=True)
class Planned:
    """All that a run learns from, before a pixel of it is read."""

    sources: tuple[Source, ...]
    folders: bool  # given as one folder of folders
    prior: Prior = Prior()
    pictures: bool = True  # False: items are prompts, and there is nothing to see

    held: tuple[Source, ...] = ()  # of each dataset what is not learned from, without shares

    @property
    def items(self) -> list[Item]:
        """In order; repeats not counted out."""
        return [item for source in self.sources for item in source.items]

    def views(self) -> list[tuple[Item, bool]]:
        """Each picture as it can be seen: as it is, and mirrored (True) where that happens. Those that make
        no sample are not seen."""
        if not self.pictures:
            return []
        return [
            (item, flip)
            for source in self.sources
            for share in source.shares
            for i in share.items
            for item in (source.items[i], source.items[i].twin)
            if item is not None
            for flip in (False, True)[: 1 + item.subset.flip_aug]
        ] + [(item, False) for source in self.held for item in source.items]
