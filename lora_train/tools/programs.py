"""Which programs read a LoRA file, layer by layer, by the forms that their loaders know."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Mapping

from lora_train.adapters.fourfold import FUSED, PIECE, PIECES
from lora_train.tools.opened import Held, Opened, kernel

Own = Mapping[str, tuple[int, ...]]  # a tensor's name within a layer -> its shape

FORMS = (  # the WebUI's order (1.10, extensions-builtin/Lora): the first whose tensors are all there
    ("LoRA", ("lora_up.weight", "lora_down.weight")),
    ("LoHa", ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")),
    ("IA3", ("weight", "on_input")),
    ("LoKr", ("lokr_w1", "lokr_w2")),
    ("LoKr", ("lokr_w1_a", "lokr_w2")),
    ("LoKr", ("lokr_w1", "lokr_w2_a")),
    ("LoKr", ("lokr_w1_a", "lokr_w2_a")),
    ("diff", ("diff",)),
    ("norm", ("w_norm", "b_norm")),
    ("norm without bias", ("w_norm",)),
    ("GLoRA", ("a1.weight", "a2.weight", "b1.weight", "b2.weight")),
    ("OFT", ("oft_blocks",)),
    ("OFT", ("oft_diag",)),
    ("VeRA", ("vera_b",)),
    ("tied LoRA", ("tied_v",)),
    ("MoRA", ("mora_sharing",)),
    ("MoRA", ("mora_rotation",)),
    ("diff_b", ("diff_b",)),
)
TURNED = re.compile(r"oft_unet_(down_blocks|up_blocks|mid_block|conv_|time_)")
KEPT = ("kept_up", "kept_down", "kept_whole")


@dataclasses.dataclass(frozen=True)
class Form:
    """What a file has for a layer."""

    name: str  # one of FORMS, "Tucker LoRA", "BOFT", "GLoRA of LyCORIS 3", or "unknown"
    dora: str = ""  # "inputs" or "outputs": what a magnitude there is one for
    kept: bool = False  # whether what earlier adapters came to stands beside it
    spelled: bool = True  # as kohya's files are

    def __str__(self) -> str:
        return f"{self.name}{f' with DoRA by {self.dora}' if self.dora else ''}{' + kept' * self.kept}"


def form(own: Own, *, spelled: bool = True) -> Form:
    """Told by names and shapes."""
    name = next((name for name, marks in FORMS if own.keys() >= {*marks}), "unknown")
    if name == "LoRA" and "lora_mid.weight" in own:
        name = "Tucker LoRA"
    elif name == "OFT" and len(own.get("oft_blocks", ())) == 4:
        name = "BOFT"
    elif name == "GLoRA" and _newer(own):
        name = "GLoRA of LyCORIS 3"
    dora = own.get("dora_scale")
    of = "" if dora is None else "outputs" if dora and dora[0] > 1 else "inputs"
    return Form(name, of, any(name in own for name in KEPT), spelled)


def _newer(own: Own) -> bool:
    """LyCORIS 3 has a1 [in, r], a2 [r, in]; before, and in what the WebUI reads, they are the other way."""
    first, second = own["a1.weight"], own["a2.weight"]
    return first[:1] > second[:1] or len(own["b2.weight"]) == 4


@dataclasses.dataclass(frozen=True)
class Asked:
    """A layer as a program meets it."""

    file: Opened
    held: Held
    form: Form

    @property
    def partial(self) -> bool:
        """Whether it is a part of an attention of OpenCLIP's of which the file has not all four."""
        found = PIECE.search(self.held.path)
        if found is None or self.held.part != FUSED.get(self.file.arch):
            return False
        return any(f"{self.held.part}.{found[1]}.{name}" not in self.file.layers for name in PIECES)

    @property
    def turned(self) -> bool:
        """Whether its key is that of kohya's OFT, of a layer in diffusers' words."""
        return all(TURNED.match(key) for key in self.held.names.values())


NO_FORMULA = "has no formula for it, and loads nothing of a file that has such"


def _webui(asked: Asked) -> str:
    """1.10.1."""
    form = asked.form
    if form.name in (
        "unknown",
        "VeRA",
        "tied LoRA",
        "MoRA",
        "norm without bias",
        "diff_b",
        "GLoRA of LyCORIS 3",
    ):
        return NO_FORMULA
    if not form.spelled:
        return "does not read keys that are spelled so; convert the file to kohya's"
    reasons = {
        "computes DoRA by outputs with a wrong norm, and noise comes out": form.dora == "outputs",
        "computes IA3 wrongly for convolutions": form.name == "IA3"
        and bool(kernel(asked.held.path, asked.file.arch)),
        "does not find layers that OFT calls so": asked.turned,
        "changes OpenCLIP's attention only where all four of its parts are there": asked.partial,
        "leaves out what earlier adapters came to": form.kept,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _forge(asked: Asked) -> str:
    """As of dfdcbab."""
    form = asked.form
    if form.name in ("unknown", "VeRA", "tied LoRA", "MoRA", "IA3", "OFT", "BOFT"):
        return "knows no such adapters and leaves them out"
    if form.dora == "outputs":
        return "computes DoRA by outputs with the norm of the weight alone, which is near it"
    return "leaves out what earlier adapters came to" if form.kept else ""


def _additional(asked: Asked) -> str:
    return "" if asked.form == Form("LoRA") else "reads plain LoRA alone"


def _ours(asked: Asked) -> str:
    return "knows no such adapters" if asked.form.name in ("unknown", "norm without bias", "diff_b") else ""


PROGRAMS: dict[
    str, Callable[[Asked], str]
] = {  # each: why it does not read a layer as it is; "" where it does
    "AUTOMATIC1111's WebUI": _webui,
    "Forge": _forge,
    "sd-webui-additional-networks": _additional,
    "lora-train": _ours,
}


def forms(file: Opened) -> dict[str, Form]:
    """Key of a layer -> what the file has for it."""
    found = {}
    for key, held in file.layers.items():
        own = {name: file.weights.shapes[at] for name, at in held.names.items()}
        spelled = all(file.spelled[at] in ("", at) for at in held.names.values())
        found[key] = form(own, spelled=spelled)
    return found


def readers(file: Opened) -> dict[str, dict[str, object]]:
    """Program -> how many layers it reads as they are meant, and why not the others: reason -> layers."""
    told = forms(file)
    found = {}
    for program, reads in PROGRAMS.items():
        why = Counter(reads(Asked(file, held, told[key])) for key, held in file.layers.items())
        fine = why.pop("", 0)
        none = NO_FORMULA in why
        found[program] = {"reads": 0 if none else fine, "of": len(file.layers), "not": dict(why)}
    return found
