"""What holds of every work of the workshop."""

from __future__ import annotations

import pytest

from lora_train.tools.tool import Tool
from lora_train.workshop import WORKS
from lora_train.workshop.asking import Asking
from lora_train.workshop.beside import OfPictures
from lora_train.workshop.work import Work


@pytest.mark.parametrize("name", WORKS)
def test_it_does_something(name):
    """None is left with what only says that others have it."""
    work = WORKS[name]
    if work.hosted and work.run is Work.run or work.run is Tool.run:
        assert work.within is not Tool.within
    elif work.run is Work.run:
        assert work.edit is not Work.edit
    for base, own in ((OfPictures, "one"), (Asking, "speaker")):
        if issubclass(work, base) and work.edit is base.edit and not work.hosted:
            assert getattr(work, own) is not getattr(base, own)
