"""The network of turbo: one step of SD-Turbo, with skips from its encoder to its decoder.

pix2pix-turbo, Parmar et al. 2024, "One-Step Image Translation with Text-to-Image Models".
Skips, latents and prompts are passed as values and never stored on a module, so that one
network may serve several streams. The names of all weights are upstream's.
"""

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from splatmend.core.errors import InputError
from splatmend.core.turbo.views import VIEWS, MixedAttention, interleave

__all__ = ["InputRange", "Skips", "Turbo", "TurboSettings", "signal_share"]

InputRange = Literal["01", "pm1"]
"""Range of the encoder's input: [0, 1] (img2img-turbo) or [-1, 1] (Difix, S3Diff)."""

Skips = tuple[Tensor, ...]
"""The encoder's activations before each of its down blocks, finest first."""

TIMESTEPS = 1000
_BETA_RANGE = (0.00085, 0.012)  # sd-turbo's scheduler file: "scaled_linear"
_SKIP_INIT = 1e-5  # upstream's: every entry, so that training starts at the plain autoencoder


@dataclass(frozen=True)
class TurboSettings:
    """Settings that a checkpoint was trained with. Upstream files lack them; ours state them."""

    timestep: int = 999
    """Of 1000: 999 for img2img-turbo and S3Diff, 199 for Difix."""
    input_range: InputRange = "01"
    gamma: float = 1.0
    """Factor of the skips' activations."""
    skips: bool = True
    """Whether the decoder has skip convolutions (S3Diff has none)."""
    cfg_scale: float = 1.0
    """Classifier-free guidance over a second, negative prompt; 1 runs the UNet once."""
    views: bool = False
    """Whether it was trained with a reference view beside each frame (Difix's `mv_unet`)."""
    prompt: str = ""
    """The words behind the prompt embedding; a second line, if any, is the negative prompt."""

    def __post_init__(self) -> None:
        if not 0 <= self.timestep < TIMESTEPS:
            raise InputError(
                f"timestep must lie between 0 and {TIMESTEPS - 1}, got {self.timestep}"
            )
        if self.input_range not in ("01", "pm1"):
            raise InputError(f'input_range must be "01" or "pm1", got {self.input_range!r}')

    @property
    def prompt_texts(self) -> tuple[str, ...]:
        """Return the prompts to embed: one, or two under classifier-free guidance."""
        lines = (*self.prompt.split("\n"), "")
        return lines[:1] if self.cfg_scale == 1 else lines[:2]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON header."""
        return asdict(self)


@lru_cache
def signal_share(timestep: int) -> float:
    """Return the share of signal in a latent's variance at `timestep`.

    This is alpha-bar of Ho et al. 2020, computed in float32 like the released scheduler:
    0.0046601 at 999, 0.7552 at 199.
    """
    low, high = (beta**0.5 for beta in _BETA_RANGE)
    betas = torch.linspace(low, high, TIMESTEPS, dtype=torch.float32, device="cpu") ** 2
    return float((1 - betas).cumprod(0)[timestep])


class Turbo(nn.Module):
    """SD-Turbo's UNet and autoencoder as a map from (n, 3, h, w) in [0, 1] to the same.

    `prompts` is (1, tokens, width), or (2, tokens, width) with a negative prompt second.
    Sides must be multiples of `multiple`.
    """

    prompts: Tensor

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        prompts: Tensor,
        settings: TurboSettings | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings or TurboSettings()
        share = signal_share(self.settings.timestep)  # here: a compiler cannot trace it
        self._factors: tuple[float, float] = share**0.5, (1 - share) ** 0.5
        self.unet, self.vae = unet, vae
        width = unet.config.cross_attention_dim
        if prompts.ndim != 3 or prompts.shape[0] not in (1, 2) or prompts.shape[2] != width:
            raise InputError(
                f"prompts must be (1 or 2, tokens, {width}) for this UNet, "
                f"got {tuple(prompts.shape)}"
            )
        if self.settings.cfg_scale != 1 and len(prompts) != 2:
            raise InputError("cfg_scale other than 1 needs a negative prompt beside the prompt")
        self.register_buffer("prompts", prompts)
        if self.settings.skips:
            add_skip_convs(vae)
        if self.settings.views:
            unet.set_attn_processor(MixedAttention())

    @property
    def multiple(self) -> int:
        """Return the latent grid in pixels, 8 at full size; the UNet itself takes odd sides."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def period(self) -> int:
        """Return the period in pixels of the UNet's coarsest grid, 64 at full size."""
        return int(self.multiple * 2 ** (len(self.unet.config.block_out_channels) - 1))

    def encode(self, picture: Tensor) -> tuple[Tensor, Skips]:
        """Encode a picture in `input_range` -> (mean and log variance (n, 8, h/8, w/8), skips)."""
        encoder, skips = self.vae.encoder, []
        x = encoder.conv_in(picture)
        for block in encoder.down_blocks:
            skips.append(x)
            x = block(x)
        x = encoder.mid_block(x)
        x = encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(x)))
        if self.vae.quant_conv is not None:
            x = self.vae.quant_conv(x)
        return x, tuple(skips)

    def latent(self, moments: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the posterior's mode, scaled (n, 4, h/8, w/8), or a sample with a generator.

        A sample, as upstream takes, differs between calls and flickers in a video. It is for
        parity tests only.
        """
        mean, log_variance = moments.chunk(2, 1)
        if generator is not None:
            noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
            mean = mean + (0.5 * log_variance.clamp(-30, 20)).exp() * noise.to(mean.device)
        return torch.as_tensor(mean * self.vae.config.scaling_factor)

    def denoise(self, latent: Tensor, *, views: int = 1) -> Tensor:
        """Take one step from `timestep` to 0 in closed form; float32 (n, 4, h/8, w/8).

        x0 = (z - sqrt(1 - a) eps) / sqrt(a). At 999 this multiplies the error of eps by 14.6,
        so the step must not use half precision. Each run of `views` latents belongs together.
        """
        settings = self.settings
        positive = self._noise(latent, self.prompts[:1], views)
        noise = positive
        if settings.cfg_scale != 1:
            negative = self._noise(latent, self.prompts[1:], views)
            noise = negative + settings.cfg_scale * (positive - negative)
        of_signal, of_noise = self._factors
        return (latent.float() - of_noise * noise) / of_signal

    def _noise(self, latent: Tensor, prompt: Tensor, views: int) -> Tensor:
        prompt = prompt.to(latent.dtype).expand(len(latent), -1, -1)
        # always a tensor: a number would be moved to the device, which breaks CUDA graphs
        time = torch.full((1,), self.settings.timestep, device=latent.device)
        noise: Tensor = self.unet(
            latent,
            time,
            encoder_hidden_states=prompt,
            cross_attention_kwargs=None if views == 1 else {"views": views},
            return_dict=False,
        )[0]
        return noise.float()

    def decode(self, latent: Tensor, skips: Skips = ()) -> Tensor:
        """Decode an unscaled latent to [-1, 1], not clamped; without skips by the plain decoder."""
        vae, decoder = self.vae, self.vae.decoder
        x = latent if vae.post_quant_conv is None else vae.post_quant_conv(latent)
        x = decoder.mid_block(decoder.conv_in(x))
        for index, block in enumerate(decoder.up_blocks):
            if skips:  # added to the input of each block, coarsest first
                skip_conv = getattr(decoder, f"skip_conv_{index + 1}")
                x = x + skip_conv(skips[-1 - index] * self.settings.gamma)
            x = block(x)
        x = decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(x)))
        return torch.as_tensor(x)

    def clean(
        self,
        rgb: Tensor,
        generator: torch.Generator | None = None,
        *,
        view: Tensor | None = None,
    ) -> tuple[Tensor, Skips]:
        """Encode and denoise pictures in [0, 1] -> (scaled float32 latents, skips).

        A view enters by its latent alone, and its own result is dropped.
        """
        moments, skips = self.encode(self._ranged(rgb))
        if view is None:
            return self.denoise(self.latent(moments, generator)), skips
        if not self.settings.views or view.shape != rgb.shape:
            raise InputError(
                f"a view needs a checkpoint that was trained with views, and the shape of its "
                f"frames {tuple(rgb.shape)}; got views {self.settings.views} and "
                f"{tuple(view.shape)}"
            )
        both = interleave(moments, self.encode(self._ranged(view))[0])
        return self.denoise(self.latent(both, generator), views=VIEWS)[::VIEWS], skips

    def _ranged(self, rgb: Tensor) -> Tensor:
        return 2 * rgb - 1 if self.settings.input_range == "pm1" else rgb

    def forward(
        self,
        rgb: Tensor,
        generator: torch.Generator | None = None,
        *,
        view: Tensor | None = None,
    ) -> Tensor:
        """Restore (n, 3, h, w) in [0, 1] -> the same, float32.

        `view` (n, 3, h, w) is a reference for each picture, for checkpoints trained with views.
        The last additions are in float32, because near white one step of bfloat16 is a whole
        8-bit level.
        """
        latent, skips = self.clean(rgb, generator, view=view)
        clean = latent / self.vae.config.scaling_factor
        restored = self.decode(clean.to(rgb.dtype), skips if self.settings.skips else ())
        return (restored.float().clamp(-1, 1) + 1) / 2


def add_skip_convs(vae: AutoencoderKL) -> None:
    """Give the decoder its bias-free 1x1 skip convolutions, named as in upstream's files."""
    widths = vae.config.block_out_channels  # (128, 256, 512, 512) at full size
    finest_first = (widths[0], *widths[:-1])  # channels before each down block
    coarsest_first = (widths[-1], *widths[:0:-1])  # channels before each up block
    device, dtype = vae.decoder.conv_in.weight.device, vae.decoder.conv_in.weight.dtype
    pairs = zip(reversed(finest_first), coarsest_first, strict=True)
    for index, (source, target) in enumerate(pairs, 1):
        conv = nn.Conv2d(source, target, 1, bias=False, device=device, dtype=dtype)
        nn.init.constant_(conv.weight, _SKIP_INIT)
        vae.decoder.add_module(f"skip_conv_{index}", conv)
