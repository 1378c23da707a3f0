"""How latents are noised, step by step, and what noise may be made of."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lora_train.transfer import sent


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """How much signal is left at each step, and what the model predicts there.

    x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) n, a = `alphas_cumprod` (Ho et al. 2020, arXiv:2006.11239, eq. 4).
    In all methods t is [B] long, on any device; results are on the device and in the dtype of x0.
    """

    alphas_cumprod: Tensor  # [T] float32, on the CPU
    prediction: str = "epsilon"  # or "v"

    @classmethod
    def scaled_linear(
        cls, start: float = 0.00085, end: float = 0.012, steps: int = 1000, prediction: str = "epsilon"
    ) -> Schedule:
        """Stable Diffusion's: the square root of beta rises in a straight line."""
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float32) ** 2
        return cls(torch.cumprod(1 - betas, 0), prediction)

    def ending_in_noise(self) -> Schedule:
        """The same, but no signal is left at the last step: there sqrt(a) is moved to 0, and all is
        stretched so that the first stays as it is (Lin et al. 2023, arXiv:2305.08891, algorithm 1)."""
        signal = self.alphas_cumprod.sqrt()
        first, last = signal[0], signal[-1]
        return dataclasses.replace(self, alphas_cumprod=((signal - last) * (first / (first - last))).square())

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    def noisy(self, x0: Tensor, n: Tensor, t: Tensor) -> Tensor:
        """x_t. x0, n: [B, ...]."""
        signal, noise = self._parts(x0, t)
        return signal * x0 + noise * n

    def target(self, x0: Tensor, n: Tensor, t: Tensor) -> Tensor:
        """What a perfect model predicts: n, or v = sqrt(a) n - sqrt(1 - a) x_0 (arXiv:2202.00512, eq. 10).

        Raises:
            ValueError: an unknown prediction.
        """
        if self.prediction == "epsilon":
            return n
        if self.prediction != "v":
            raise ValueError(f"no target for prediction {self.prediction!r}; known: epsilon, v")
        signal, noise = self._parts(x0, t)
        return signal * n - noise * x0

    def clean(self, x_t: Tensor, guess: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x_0, n) that a prediction at x_t stands for; `noisy` and `target` the other way."""
        signal, noise = self._parts(x_t, t)
        if self.prediction == "v":
            return signal * x_t - noise * guess, noise * x_t + signal * guess
        return (x_t - noise * guess) / signal, guess

    def step(self, x_t: Tensor, guess: Tensor, t: Tensor, to: Tensor) -> Tensor:
        """x at the step `to`, [B] long: DDIM without new noise (arXiv:2010.02502, eq. 12, sigma 0)."""
        return self.noisy(*self.clean(x_t, guess, t), to)

    @property
    def last_is_noise(self) -> bool:
        """Whether no signal is left at the last step."""
        return bool(self.alphas_cumprod[-1] < 1e-6)

    def snr(self, t: Tensor) -> Tensor:
        """[B] float32: signal power over noise power; on the CPU."""
        a = self.alphas_cumprod[t.cpu()]
        return a / (1 - a)

    def _parts(self, x0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(a), sqrt(1 - a), shaped to multiply with x0."""
        a = self.alphas_cumprod[t.cpu()].view(-1, *[1] * (x0.ndim - 1))
        return sent(a.sqrt(), x0.device).to(x0), sent((1 - a).sqrt(), x0.device).to(x0)


def pyramid(noise: Tensor, levels: int, discount: float, rng: torch.Generator) -> Tensor:
    """Noise [C, h, w] with ever coarser noise added to it, each level 2 to 4 times as coarse and `discount`
    times as strong as the one before, back at a deviation of 1.

    The first level is as fine as the noise itself; it ends at a side of one pixel. As in sd-scripts, but for
    each sample by itself. Source: Whitaker 2023, "Multi-resolution noise for diffusion model training".
    """
    *_, height, width = noise.shape
    for level in range(levels):
        ratio = (2 + 2 * torch.rand((), generator=rng).item()) ** level
        size = (max(1, int(height / ratio)), max(1, int(width / ratio)))
        coarse = torch.randn(1, len(noise), *size, generator=rng)
        fine = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
        noise = noise + discount**level * fine[0].to(noise)
        if 1 in size:
            break
    return noise / noise.std()
