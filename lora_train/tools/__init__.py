"""The tools there are, by the name of their command."""

from __future__ import annotations

from lora_train.tools.card import Card
from lora_train.tools.metadata import Metadata
from lora_train.tools.tool import Tool

TOOLS: dict[str, type[Tool]] = {
    "metadata": Metadata,
    "card": Card,
}
