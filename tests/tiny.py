"""A light host: a small denoiser and text encoder of torch alone, under Stable Diffusion's layer names."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from torch import Tensor, nn

from lora_train.adapters.layer import Layer
from lora_train.errors import Mistake
from lora_train.host import Cond, Folders, Model, Origin
from lora_train.hosts.standalone.host import refusals
from lora_train.noise import Schedule

WIDTH, TIME, TEXT, TOKENS = 8, 16, 12, 40  # channels, time embedding, text features, tokens of a caption


class Resnet(nn.Module):
    def __init__(self, inn: int, out: int):
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(4, inn), nn.SiLU(), nn.Conv2d(inn, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(TIME, out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(4, out), nn.SiLU(), nn.Identity(), nn.Conv2d(out, out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if inn == out else nn.Conv2d(inn, out, 1)

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(time)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Attention(nn.Module):
    def __init__(self, width: int, seen: int):
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k, self.to_v = (nn.Linear(seen, width, bias=False) for _ in range(2))
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Identity())

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        heads = (m(y).unflatten(-1, (2, -1)).transpose(1, 2) for m, y in
                 ((self.to_q, x), (self.to_k, seen), (self.to_v, seen)))  # fmt: skip
        return self.to_out(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


class Gated(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, -1)
        return x * F.gelu(gate)


class Transformer(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(4, width)
        self.proj_in, self.proj_out = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        block = nn.Module()
        block.attn1, block.attn2 = Attention(width, width), Attention(width, TEXT)
        block.ff = nn.Module()
        block.ff.net = nn.Sequential(Gated(width), nn.Identity(), nn.Linear(4 * width, width))
        block.norm1, block.norm2, block.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.transformer_blocks = nn.ModuleList([block])

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        block, h = self.transformer_blocks[0], self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        n = block.norm1(h)
        h = h + block.attn1(n, n)
        h = h + block.attn2(block.norm2(h), text)
        h = h + block.ff.net(block.norm3(h))
        return x + self.proj_out(h.transpose(1, 2).reshape(x.shape))


class Down(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        return self.op(x)


class Up(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0))


class Denoiser(nn.Module):
    """Two resolutions, with the numbers that the blocks have in Stable Diffusion 1.x."""

    def __init__(self) -> None:
        super().__init__()
        w = WIDTH
        self.time_embed = nn.Sequential(nn.Linear(TIME, TIME), nn.SiLU(), nn.Linear(TIME, TIME))
        self.input_blocks = nn.ModuleDict(
            {
                "0": nn.ModuleList([nn.Conv2d(4, w, 3, padding=1)]),
                "1": nn.ModuleList([Resnet(w, w), Transformer(w)]),
                "3": nn.ModuleList([Down(w)]),
                "4": nn.ModuleList([Resnet(w, 2 * w), Transformer(2 * w)]),
            }
        )
        self.middle_block = nn.ModuleList([Resnet(2 * w, 2 * w), Transformer(2 * w), Resnet(2 * w, 2 * w)])
        self.output_blocks = nn.ModuleDict(
            {
                "8": nn.ModuleList([Resnet(4 * w, 2 * w), Transformer(2 * w), Up(2 * w)]),
                "11": nn.ModuleList([Resnet(3 * w, w), Transformer(w)]),
            }
        )
        self.out = nn.Sequential(nn.GroupNorm(4, w), nn.SiLU(), nn.Conv2d(w, 4, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        waves = torch.exp(-math.log(10000) * torch.arange(TIME // 2, device=x.device) / (TIME // 2))
        angles = t[:, None] * waves
        time = self.time_embed(torch.cat([angles.cos(), angles.sin()], 1).to(x.dtype))
        first = h = self.input_blocks["0"][0](x)
        for number in ("1", "3", "4"):
            for module in self.input_blocks[number]:
                h = module(h, time, text)
        last = h
        for module in self.middle_block:
            h = module(h, time, text)
        h = torch.cat([h, last], 1)
        for module in self.output_blocks["8"]:
            h = module(h, time, text)
        h = torch.cat([h, first], 1)
        for module in self.output_blocks["11"]:
            h = module(h, time, text)
        return self.out(h)


class TextLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.mlp = nn.Module(), nn.Module()
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self.self_attn, name, nn.Linear(TEXT, TEXT))
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(TEXT, 4 * TEXT), nn.Linear(4 * TEXT, TEXT)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(TEXT), nn.LayerNorm(TEXT)

    def forward(self, x: Tensor) -> Tensor:
        a, n = self.self_attn, self.layer_norm1(x)
        q, k, v = a.q_proj(n), a.k_proj(n), a.v_proj(n)
        x = x + a.out_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.layer_norm2(x))))


class TextEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(256, TEXT)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList([TextLayer(), TextLayer()])
        self.final_layer_norm = nn.LayerNorm(TEXT)

    def forward(self, ids: Tensor, learned: Tensor | None = None) -> Tensor:
        """learned: [N, TEXT], which ids below 0 stand for, from -1 on."""
        x = self.embeddings(ids.clamp(min=0))
        if learned is not None:
            x = torch.where((ids < 0)[..., None], learned.to(x)[(-1 - ids).clamp(min=0)], x)
        for layer in self.encoder.layers:
            x = layer(x)
        return self.final_layer_norm(x)


class Tiny:
    """A `lora_train.host.Lent`. A caption's tokens are its letters."""

    vae_id = "tiny"
    inpaints = False

    def __init__(self, prediction: str = "epsilon", dtype: torch.dtype = torch.float32):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.parts = {"unet": Denoiser(), "te1": TextEncoder()}
        for module in self.parts.values():
            module.eval().requires_grad_(False).to(dtype)
        self.device, self.dtype = torch.device("cpu"), dtype
        self.schedule = Schedule.scaled_linear(prediction=prediction)
        self.origin = Origin("tiny.safetensors", "0" * 8, "0" * 64, prediction=prediction)
        self.parked: list[str] = []
        self.pauses = 0
        self.learned: dict[str, Callable[[], Mapping[str, Tensor]]] = {}

    def denoise(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self.parts["unet"](x_t.to(self.dtype), t, cond.context.to(self.dtype))

    def encode(self, captions: Sequence[str], *, weighted: bool | None = None) -> Cond:
        learned = [made()["te1"] for made in self.learned.values()]
        ids = torch.tensor([self._ids(caption) for caption in captions])
        return Cond(self.parts["te1"](ids, torch.cat(learned) if learned else None))

    def _ids(self, caption: str) -> list[int]:
        return [*self._read(caption), *[0] * TOKENS][:TOKENS]

    def _read(self, caption: str) -> list[int]:
        """Its letters; ids below 0 for the vectors of learned words."""
        ids, at = list(caption.encode()), 0
        for word, made in self.learned.items():
            count, letters = len(made()["te1"]), list(word.encode())
            for i in reversed(range(len(ids) - len(letters) + 1)):
                if ids[i : i + len(letters)] == letters:
                    ids[i : i + len(letters)] = [-1 - k for k in range(at, at + count)]
            at += count
        return ids

    def vectors(self, text: str) -> dict[str, Tensor]:
        return {"te1": self.parts["te1"].embeddings.weight[list(text.encode())].float()}

    @contextlib.contextmanager
    def spoken(self, word: str, vectors: Callable[[], Mapping[str, Tensor]] | None) -> Iterator[None]:
        before = dict(self.learned)
        self.learned.pop(word, None)
        if vectors is not None:
            self.learned[word] = vectors
        try:
            yield
        finally:
            self.learned = before

    def tokens(self, caption: str) -> int:
        return len(self._read(caption))

    def cut(self, caption: str) -> tuple[str, str]:
        return caption[:TOKENS], caption[TOKENS:]

    @torch.no_grad()
    def encode_images(self, pixels: Tensor, draws: Sequence[torch.Generator] | None = None) -> Tensor:
        small = F.avg_pool2d(pixels.float(), 8)
        latents = torch.cat([small, small.mean(1, keepdim=True)], 1)
        if draws is not None:
            noise = [torch.randn(latents.shape[1:], generator=draw) for draw in draws]
            latents = latents + 0.01 * torch.stack(noise)
        return latents

    @torch.no_grad()
    def sample(self, prompt: object) -> Image.Image:
        """What the model predicts of noise, as a picture; not a good one."""
        rng = torch.Generator().manual_seed(prompt.seed or 0)
        noise = torch.randn(1, 4, prompt.height // 8, prompt.width // 8, generator=rng)
        seen = self.denoise(noise, torch.tensor([500]), self.encode([prompt.prompt]))[0, :3].float()
        values = (seen.tanh() * 127.5 + 127.5).byte().permute(1, 2, 0).numpy()
        return Image.fromarray(values).resize((prompt.width, prompt.height))

    def layers(self) -> list[Layer]:
        modules = [(part, path, m) for part, net in self.parts.items() for path, m in net.named_modules()]
        found = [Layer.of(part, path, module) for part, path, module in modules]
        return [layer for layer in found if layer is not None]

    def checkpoint_blocks(self) -> list[nn.Module]:
        kinds = (Resnet, Transformer, TextLayer)
        return [m for net in self.parts.values() for m in net.modules() if isinstance(m, kinds)]

    def denoisers(self) -> list[nn.Module]:
        return [self.parts["unet"]]

    def park(self, part: str) -> None:
        self.parked.append(part)

    @contextlib.contextmanager
    def given_back(self, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        self.pauses += 1
        yield
        waiting()


class TinyHost:
    """A `lora_train.host.Host` that lends the same model every time."""

    def __init__(self, folder: pathlib.Path = pathlib.Path("output")):
        self.folders = Folders(folder / "loras", folder / "desk")

    @contextlib.contextmanager
    def borrow(
        self, model: Model, *, device: str, precision: str, waiting: Callable[[], None] = lambda: None
    ) -> Iterator[Tiny]:
        waiting()
        dtypes = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        lent = Tiny("v" if model.v_parameterization else "epsilon", dtypes[precision])
        if model.zero_terminal_snr:
            lent.schedule = lent.schedule.ending_in_noise()
            lent.origin = dataclasses.replace(lent.origin, last_is_noise=True)
        yield lent

    def header(self) -> dict[str, object]:
        return {
            "loaded": True, "name": "tiny", "path": "tiny.safetensors", "hash": "0" * 64, "family": "sd1",
            "prediction": "epsilon", "ztsnr": False, "vae": None, "dtype": "fp32", "device": "cpu",
            "free_megabytes": None, "total_megabytes": None, "trainable": True, "reason": None,
            "unchanged": None,
        }  # fmt: skip

    def refusals(self, job: object, output: object, place: object) -> list[str]:
        return refusals(job, place)

    def sketch(self, model: Model, *, precision: str) -> None:
        """It has no other model than its own."""

    def announce(self, file: pathlib.Path, job: object, output: object) -> list[str]:
        return []

    def inpainter(self, prompt: object, strength: float) -> None:
        raise Mistake("by = webui: works inside the WebUI alone; take lama or opencv")

    def wrote(self, files: Sequence[pathlib.Path]) -> list[str]:
        return []
