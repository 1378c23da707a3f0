"""LoRA files that tools make: their tensors by layer, and what their metadata says."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lora_train import __version__
from lora_train.adapters.fourfold import missing
from lora_train.adapters.thin import ALPHA, DOWN, UP
from lora_train.models.written import narrowed, write
from lora_train.names import file_key
from lora_train.tools.opened import layer

Form = dict[str, Tensor]  # name within a layer -> tensor
VERSIONS = {  # architecture -> what sd-scripts calls its base, modelspec, and whose words the keys are
    "sd1": ("sd_v1", "stable-diffusion-v1", "diffusers"),
    "sd2": ("sd_v2", "stable-diffusion-v2-512", "diffusers"),
    "sdxl": (
        "sdxl_base_v1-0", "stable-diffusion-xl-v1-base", "https://github.com/Stability-AI/generative-models",
    ),
}  # fmt: skip
FORMS = {  # a tensor's name -> what LyCORIS calls adapters that have it
    "hada_w1_a": "loha", "lokr_w1": "lokr", "lokr_w1_a": "lokr", "diff": "full", "w_norm": "full",
}  # fmt: skip


@dataclasses.dataclass
class Filed:
    """A LoRA file that grows layer by layer."""

    arch: str
    dtype: torch.dtype  # of its tensors
    forms: dict[str, Form] = dataclasses.field(default_factory=dict)  # key of a layer -> its tensors
    shapes: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    more: dict[str, Tensor] = dataclasses.field(default_factory=dict)  # under whole keys

    def add(self, key: str, form: Mapping[str, Tensor], shape: tuple[int, ...]) -> None:
        """A layer's, held as they will be written. key: "unet.input_blocks.0.0"."""
        self.forms[key] = {
            name: self._kept(tensor.detach().cpu(), f"{key} {name}") for name, tensor in form.items()
        }
        self.shapes[key] = shape

    def _kept(self, tensor: Tensor, name: str) -> Tensor:
        """An alpha that is no number of the file's precision stays as exact as it is."""
        if tensor.ndim == 0 and tensor.to(self.dtype) != tensor:
            return tensor
        return narrowed(tensor, self.dtype, name).contiguous()

    def write(self, path: pathlib.Path, texts: Mapping[str, str]) -> None:
        """Raises Unwritable: the folder cannot be written to, or the disk is full."""
        found = {
            f"{file_key(*key.split('.', 1), self.arch)}.{name}": tensor
            for key, form in self.forms.items()
            for name, tensor in form.items()
        }
        layers = {key: layer(*key.split(".", 1), self.arch, shape) for key, shape in self.shapes.items()}
        found.update({key: tensor.to(self.dtype) for key, tensor in missing(layers).items()})
        found.update(self.more)
        rows = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in found.items()}
        write(path, rows, found.__getitem__, texts, hashed=True)

    def sizes(self, wide: bool) -> tuple[str, str] | None:
        """Rank and alpha, "Dynamic" where they are not one; None where no layer has any.

        Args:
            wide: of convolutions beyond 1x1, or of all others.
        """
        kinds = {
            (len(form[DOWN]), float(form[ALPHA])) if DOWN in form else None
            for key, form in self.forms.items()
            if (max(self.shapes[key][2:], default=1) > 1) == wide
        }
        if not kinds - {None}:
            return None
        ranks, alphas = zip(*(kinds - {None}), strict=True)
        dim = str(ranks[0]) if len({*ranks}) == 1 else "Dynamic"
        return dim, str(alphas[0]) if len({*alphas}) == 1 and dim != "Dynamic" else "Dynamic"

    def ranks(self) -> dict[str, int]:
        """Of those layers that have one."""
        return {key: len(form[DOWN]) for key, form in self.forms.items() if DOWN in form}

    def said(self) -> str:
        """Its ranks, in words."""
        found = sorted({*self.ranks().values()})
        whole = len(self.forms) - len(self.ranks())
        span = f"{found[0]} to {found[-1]}" if len(found) > 1 else "".join(map(str, found))
        return " and ".join([f"rank {span}"] * bool(found) + [f"{whole} not as a LoRA"] * bool(whole))

    def texts(
        self, title: str, comment: str, origin: Mapping[str, str], merged: Iterable[str] = ()
    ) -> dict[str, str]:
        """Metadata.

        Args:
            origin: what the file, or the first of them, said that it is made from.
            merged: what it is made from, where that is several.
        """
        version, spec, words = VERSIONS[self.arch]
        args = self._arguments()
        dim, alpha = self.sizes(False) or self.sizes(True) or ("Dynamic", "Dynamic")
        plain = all(form.keys() <= {DOWN, UP, ALPHA} for form in self.forms.values())
        names = [name for name in merged if name]
        found = {
            "ss_v2": str(self.arch == "sd2"),
            "ss_base_model_version": origin.get("ss_base_model_version") or version,
            "ss_output_name": title,
            "ss_network_module": "networks.lora" if plain else "lycoris.kohya",
            "ss_network_dim": dim,
            "ss_network_alpha": alpha,
            "ss_network_args": json.dumps(args) if args else None,
            "ss_training_comment": comment,
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.architecture": origin.get("modelspec.architecture") or f"{spec}/lora",
            "modelspec.implementation": origin.get("modelspec.implementation") or words,
            "modelspec.implementation_version": f"lora-train/{__version__}",
            "modelspec.title": title,
            "modelspec.resolution": origin.get("modelspec.resolution"),
            "modelspec.prediction_type": origin.get("modelspec.prediction_type"),
            "modelspec.date": time.strftime("%Y-%m-%dT%H:%M:%S"),
            "modelspec.merged_from": ", ".join(names) if names else None,
        }
        return {key: text for key, text in found.items() if text is not None}

    def _arguments(self) -> dict[str, str]:
        """`ss_network_args`: what sd-scripts and LyCORIS would have been told."""
        args = {}
        algo = [kind for name, kind in FORMS.items() if any(name in form for form in self.forms.values())]
        if algo:
            args["algo"] = "locon" if any(DOWN in form for form in self.forms.values()) else algo[0]
        if self.sizes(True) and self.sizes(False):
            args["conv_dim"], args["conv_alpha"] = self.sizes(True)
        return args
