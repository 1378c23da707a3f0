"""What the WebUI may have left on the loaded model: taken off for a run, and put back as it was."""

from __future__ import annotations

import contextlib
import copy
import logging
import sys
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn

log = logging.getLogger(__name__)

PATCHED = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.MultiheadAttention)  # by the Lora extension
LEAN = ("sdp", "sdp-no-mem")  # attentions that train in little memory, the better first


@contextlib.contextmanager
def neutral(model: nn.Module) -> Iterator[Drawing]:
    """The bare, frozen model inside `with`.

    LoRAs of the last prompt stay merged after a generation, tiling stays in the convolutions, hypertile in
    the attention, hypernetworks in a list (seen on v1.10.1). All parameters of the UNet ask for gradients.

    Yields:
        A context manager for samples; see `_attention`.
    """
    with contextlib.ExitStack() as back:
        for change in (
            _other_unet(), _hypernetworks(), _hypertile(model), _token_merging(model), _tiling(),
            _schedule(model), _prompts_read(), _without_loras(model), _frozen(model),
            _contiguous(model),
        ):  # fmt: skip
            back.enter_context(change)
        yield back.enter_context(_attention(model))


@contextlib.contextmanager
def _contiguous(model: nn.Module) -> Iterator[None]:
    """v1.10.1's SpatialTransformer gives its pictures on with channels last, and then torch turns the weights
    of every convolution behind it round, in each step: a quarter of a step of 256 pixels on a CPU. Samples
    are drawn as the WebUI draws them."""
    blocks = [m for m in model.modules() if type(m).__name__ == "SpatialTransformer"]
    handles = [m.register_forward_hook(_in_order) for m in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _in_order(module: nn.Module, given: object, out: torch.Tensor) -> torch.Tensor:
    return out.contiguous() if torch.is_grad_enabled() else out


@contextlib.contextmanager
def set_options(values: dict[str, object]) -> Iterator[None]:
    """Settings of the WebUI inside `with`, without what it does when they change; not for a whole run, which
    what a person sets meanwhile would change. What they set stays."""
    from modules import shared

    gone = object()
    before = {name: shared.opts.data.get(name, gone) for name in values}
    shared.opts.data.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if shared.opts.data.get(name, gone) != values[name]:
                continue  # a person's own, of just now
            if value is gone:
                shared.opts.data.pop(name, None)
            else:
                shared.opts.data[name] = value


@contextlib.contextmanager
def bare_after(model: nn.Module) -> Iterator[None]:
    """A picture is drawn inside `with`. Settings may put a LoRA, a hypernetwork or tiling on the model for
    any prompt, and it stays there."""
    with _hypernetworks(), _tiling(), _without_loras(model):
        yield


@contextlib.contextmanager
def _hypernetworks() -> Iterator[None]:
    from modules import shared

    before = list(shared.loaded_hypernetworks)
    shared.loaded_hypernetworks.clear()
    try:
        yield
    finally:
        shared.loaded_hypernetworks[:] = before


@contextlib.contextmanager
def _hypertile(model: nn.Module) -> Iterator[None]:
    marks = [vars(m).get("__webui_hypertile_params") for m in model.modules()]
    on = [mark for mark in marks if mark is not None and mark.enabled]
    for mark in on:
        mark.enabled = False
    try:
        yield
    finally:
        for mark in on:
            mark.enabled = True


@contextlib.contextmanager
def _other_unet() -> Iterator[None]:
    """One that stands in for the model's own, such as TensorRT's."""
    from modules import sd_unet

    other = sd_unet.current_unet is not None
    if other:
        sd_unet.apply_unet("None")
    try:
        yield
    finally:
        if other:
            sd_unet.apply_unet()


@contextlib.contextmanager
def _token_merging(model: nn.Module) -> Iterator[None]:
    from modules import sd_models

    ratio = getattr(model, "applied_token_merged_ratio", 0)
    if ratio:
        sd_models.apply_token_merging(model, 0)
    try:
        yield
    finally:
        if ratio:
            sd_models.apply_token_merging(model, ratio)


@contextlib.contextmanager
def _tiling() -> Iterator[None]:
    """It makes convolutions circular until the next generation."""
    from modules import sd_hijack

    hijack = sd_hijack.model_hijack
    before = hijack.circular_enabled
    hijack.apply_circular(False)
    try:
        yield
    finally:
        hijack.apply_circular(before)


@contextlib.contextmanager
def _schedule(model: nn.Module) -> Iterator[None]:
    """Generations leave the noise schedule as the settings bent it."""
    before = model.alphas_cumprod
    try:
        yield
    finally:
        model.alphas_cumprod = before


@contextlib.contextmanager
def _prompts_read() -> Iterator[None]:
    try:
        yield
    finally:
        forget_prompts()


def forget_prompts() -> None:
    """What prompts became is kept by their text; a LoRA of that name may be another now."""
    from modules import processing

    kinds = (processing.StableDiffusionProcessing, processing.StableDiffusionProcessingTxt2Img)
    for name in ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc"):
        for kept in [vars(kind)[name] for kind in kinds if name in vars(kind)]:
            kept[:] = [None] * len(kept)


@contextlib.contextmanager
def _without_loras(model: nn.Module) -> Iterator[None]:
    """Weights as the checkpoint has them, through the Lora extension's own backups."""
    networks = sys.modules.get("networks")
    if networks is None or not hasattr(model, "network_layer_mapping"):
        yield
        return
    before = [
        (getattr(n, "mentioned_name", None) or n.name, n.te_multiplier, n.unet_multiplier, n.dyn_dim)
        for n in networks.loaded_networks
    ]
    layers = model.network_layer_mapping
    worn = [name for name, layer in layers.items() if getattr(layer, "network_current_names", ())]
    wear(model, [], layers)
    try:
        yield
    finally:
        if networks.loaded_networks and not before:
            wear(model, [], layers)
        if before:
            wear(model, before, worn)  # others wear them when they are next called, if they ever are


@torch.no_grad()
def wear(model: nn.Module, loras: list[tuple[str, float, float, int | None]], layers: Iterable[str]) -> None:
    """(name, strength on text encoders, on the UNet, ranks of it) merged into the weights of `layers`."""
    networks = sys.modules["networks"]
    with torch.random.fork_rng(devices=[]):  # layers are made to hold what is read, and draw numbers first
        networks.load_networks(*([list(column) for column in zip(*loras, strict=True)] or [[]]))
    ways_out = {id(m.out_proj) for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    for module in map(model.network_layer_mapping.get, layers):
        if isinstance(module, PATCHED) and id(module) not in ways_out:  # which come with theirs
            networks.network_apply_weights(module)


Drawing = Callable[[], contextlib.AbstractContextManager[None]]
KINDS = ("CrossAttention", "AttnBlock")  # whose forward the WebUI replaces, for all models at once


@contextlib.contextmanager
def _attention(model: nn.Module) -> Iterator[Drawing]:
    """One that trains in little memory, in place of one that has no backward pass or keeps every product of
    queries and keys for it.

    Yields:
        A context manager for samples: what pictures are drawn with.
    """
    from modules import sd_hijack

    before = sd_hijack.current_optimizer
    titles = {x.name: x.title() for x in sd_hijack.optimizers}
    other = next((titles[name] for name in LEAN if name in titles), "None")
    own = before.name if before else "None"
    if own in (*LEAN, "xformers") and differentiable(model.model.diffusion_model):
        yield contextlib.nullcontext
        return
    log.info("For the run, %s takes the place of the attention %s.", other, own)
    classes = {type(m) for m in model.modules() if type(m).__name__ in KINDS}
    drawn = {kind: kind.forward for kind in classes}
    sd_hijack.model_hijack.apply_optimizations(other)
    trained = {kind: kind.forward for kind in classes}

    @contextlib.contextmanager
    def drawing() -> Iterator[None]:
        _set_forwards(drawn)
        try:
            yield
        finally:
            _set_forwards(trained)

    try:
        yield drawing
    finally:
        sd_hijack.model_hijack.apply_optimizations(before.title() if before else "None")


def _set_forwards(forwards: dict[type, object]) -> None:
    for kind, forward in forwards.items():
        kind.forward = forward


def differentiable(unet: nn.Module) -> bool:
    """Whether a gradient comes back through the first attention to itself."""
    from modules import devices

    found = next((m for path, m in unet.named_modules() if path.endswith("attn1")), None)
    if found is None:
        return True
    weight = found.to_q.weight
    if weight.device.type != devices.device.type:  # with --medvram it waits in the computer's memory
        found = copy.deepcopy(found).to(devices.device)
        weight = found.to_q.weight
    like = weight.dtype if weight.dtype in (torch.float16, torch.bfloat16) else torch.float32
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        x = torch.ones(1, 64, weight.shape[1], dtype=like, device=weight.device, requires_grad=True)
        try:
            with devices.autocast():
                found(x).float().square().sum().backward()
        except torch.cuda.OutOfMemoryError:
            raise  # says nothing of the attention
        except (RuntimeError, ValueError):  # so torch and xformers refuse what they cannot differentiate
            return False
    return x.grad is not None and bool(x.grad.isfinite().all())


@contextlib.contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    asked = [p for p in model.parameters() if p.requires_grad]
    modes = [(m, m.training) for m in model.modules() if m.training]
    model.requires_grad_(False)
    model.eval()
    try:
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)
        for module, mode in modes:
            module.training = mode
