"""The workshop: from a folder of pictures to a dataset worth training on. Its works, by their commands."""

from __future__ import annotations

from lora_train.tools.tool import Tool
from lora_train.workshop.aside import Aside
from lora_train.workshop.background import Background
from lora_train.workshop.captions import Captions
from lora_train.workshop.convert import Convert
from lora_train.workshop.crop import Crop
from lora_train.workshop.describe import Describe
from lora_train.workshop.erase import Erase
from lora_train.workshop.exported import Export
from lora_train.workshop.flip import Flip
from lora_train.workshop.history import History, Redo, Undo
from lora_train.workshop.imported import Import
from lora_train.workshop.interrogate import Interrogate
from lora_train.workshop.mask import Mask
from lora_train.workshop.regularise import Regularise
from lora_train.workshop.rename import Rename
from lora_train.workshop.repeats import Repeats
from lora_train.workshop.report import Check
from lora_train.workshop.similar import Similar
from lora_train.workshop.spelling import Spelling
from lora_train.workshop.split import Split
from lora_train.workshop.tag import Tag
from lora_train.workshop.tags import Tags
from lora_train.workshop.upscale import Upscale

WORKS: dict[str, type[Tool]] = {
    "check": Check,
    "aside": Aside,
    "captions": Captions,
    "tags": Tags,
    "spelling": Spelling,
    "rename": Rename,
    "repeats": Repeats,
    "import": Import,
    "export": Export,
    "similar": Similar,
    "tag": Tag,
    "describe": Describe,
    "interrogate": Interrogate,
    "convert": Convert,
    "regularise": Regularise,
    "crop": Crop,
    "flip": Flip,
    "split": Split,
    "upscale": Upscale,
    "background": Background,
    "mask": Mask,
    "erase": Erase,
    "undo": Undo,
    "redo": Redo,
    "history": History,
}
