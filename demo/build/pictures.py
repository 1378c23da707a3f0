"""The pictures and words the demo checkpoint learns from: emoji drawings with their CLDR labels and tags."""

from __future__ import annotations

import io
import json
import pathlib
import random
import re

import numpy
import resvg_py
import torch
import torch.nn.functional as F
from PIL import Image

HERE = pathlib.Path(__file__).parent
W3 = "http://www.w3.org"
SKIN_TONES = re.compile(r"(light|medium|dark)-skin-tone|^flag-|keycap|-\d\d00|o-clock|thirty$")


def slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")


def listed(name: str) -> list[str]:
    """Labels of `concepts.txt` or `heldout.txt`."""
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def words(emojibase: pathlib.Path) -> dict[str, list[str]]:
    """Label -> its tags, from emojibase-data's English table."""
    rows = json.loads((emojibase / "en" / "data.json").read_text(encoding="utf-8"))
    return {row["label"]: row.get("tags", []) for row in rows}


class Icons:
    """One iconify set, drawn on white."""

    def __init__(self, package: pathlib.Path):
        self.table = json.loads((package / "icons.json").read_text(encoding="utf-8"))

    def names(self) -> list[str]:
        return sorted(name for name in self.table["icons"] if not SKIN_TONES.search(name))

    def draw(self, name: str, size: int) -> Image.Image:
        icon = self.table["icons"][name]
        w = icon.get("width", self.table.get("width", 16))
        h = icon.get("height", self.table.get("height", 16))
        side = max(w, h)
        box = f"{(w - side) / 2} {(h - side) / 2} {side} {side}"
        svg = f'<svg xmlns="{W3}/2000/svg" xmlns:xlink="{W3}/1999/xlink" viewBox="{box}">{icon["body"]}</svg>'
        png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background="white")
        return Image.open(io.BytesIO(bytes(png))).convert("RGB")

    def tensor(self, names: list[str], size: int) -> torch.Tensor:
        """[N, 3, size, size] in -1..1."""
        drawn = [numpy.asarray(self.draw(name, size)) for name in names]
        return torch.from_numpy(numpy.stack(drawn)).permute(0, 3, 1, 2).float() / 127.5 - 1


LEADS = ("a", "an", "the", "one", "my", "a picture of a", "a drawing of a", "a photo of a", "an icon of a")


def caption(label: str, tags: list[str], draw: random.Random) -> str:
    """The label, then up to five of its tags in any order. In four of ten what people say before it, and in
    some a tag: a label that is always the first word is only known there."""
    tags = [tag for tag in tags if tag not in label.split()]
    draw.shuffle(tags)
    told = draw.random()
    if told < 0.4:
        label = f"{draw.choice(LEADS)} {label}"
    elif told < 0.5 and tags:
        label = f"{tags.pop()}, {label}"
    return ", ".join([label, *tags[: draw.randint(0, 5)]])


def placed(
    pictures: torch.Tensor, draw: torch.Generator, *, shrink: float = 0.12, shift: float = 0.06
) -> torch.Tensor:
    """The same pictures a little smaller and a little moved, on white. Shape and range unchanged."""
    n = len(pictures)
    scale = 1 / (1 - shrink * torch.rand(n, generator=draw))
    move = (torch.rand(n, 2, generator=draw) * 2 - 1) * shift * 2
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = move
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures - 1, grid, align_corners=False) + 1


def recoloured(pictures: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """For the autoencoder alone, which has to carry styles the denoiser never sees: of every eight pictures
    about one turns grey, one black on white, one gets its channels swapped and one is inverted."""
    kind = torch.randint(8, (len(pictures), 1, 1, 1), generator=draw)
    grey = pictures.mean(1, keepdim=True).expand_as(pictures)
    pictures = torch.where(kind == 0, grey, pictures)
    pictures = torch.where(kind == 1, (grey * 8).clamp(-1, 1), pictures)
    pictures = torch.where(kind == 2, pictures[:, [1, 2, 0]], pictures)
    return torch.where(kind == 3, -pictures, pictures)
