"""The tools there are, by the name of their command."""

from __future__ import annotations

from lora_train.tools.card import Card
from lora_train.tools.convert import Convert
from lora_train.tools.dehydrate import Dehydrate, Rehydrate
from lora_train.tools.extract import Extract
from lora_train.tools.inspect import Inspect
from lora_train.tools.merge import Merge
from lora_train.tools.metadata import Metadata
from lora_train.tools.models import ConvertModel
from lora_train.tools.resize import Resize
from lora_train.tools.tool import Tool

TOOLS: dict[str, type[Tool]] = {
    "merge": Merge,
    "extract": Extract,
    "inspect": Inspect,
    "convert-model": ConvertModel,
    "dehydrate": Dehydrate,
    "rehydrate": Rehydrate,
    "metadata": Metadata,
    "card": Card,
    "resize": Resize,
    "convert": Convert,
}
