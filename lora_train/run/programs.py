"""Other programs' JSON: whose a file is, and what it trains in names that are known here."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

from lora_train.compat import Heard
from lora_train.errors import Mistake
from lora_train.run import dreambooth, edits, kohya, onetrainer, traintrain

PROGRAMS = ((edits.is_leco, edits.leco), (kohya.is_gui, kohya.heard),
            (traintrain.is_config, traintrain.heard), (onetrainer.is_config, onetrainer.heard),
            (dreambooth.is_config, dreambooth.heard))  # fmt: skip


def heard(found: Mapping[str, object], path: pathlib.Path) -> Heard:
    """Raises:
    Mistake: of none of them, or of something that is not trained here.
    """
    for is_its, read in PROGRAMS:
        if is_its(found):
            try:
                return read(found)
            except Mistake as e:
                raise Mistake(f"{path}: {e}") from e
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as e:
                raise Mistake(f"{path}: expected settings; one of them cannot be read ({e})") from e
    if "train_batch_size" in found and "pretrained_model_name_or_path" in found:
        raise Mistake(f"{path}: expected settings of kohya_ss' LoRA tab; these are of another of its tabs")
    raise Mistake(
        f"{path}: expected a job or preset of lora-train, or settings of kohya_ss' LoRA tab, TrainTrain, "
        "OneTrainer or the Dreambooth extension; this is none of them"
    )
