"""Which host a WebUI is: one to train in, or one that says why not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_train.hosts.webui.folders import folders
from lora_train.hosts.webui.versions import unsupported

if TYPE_CHECKING:
    from lora_train.host import Host


def host() -> Host:
    """The host to train in here."""
    if reason := unsupported():
        from lora_train.hosts.forge.host import ForgeHost

        return ForgeHost(reason, folders)
    from lora_train.hosts.webui.host import WebuiHost

    return WebuiHost()
