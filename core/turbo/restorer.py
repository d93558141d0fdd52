"""turbo as a restorer: precision, memory layout, compilation, weights for each frame."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from splatmend.core.errors import InputError
from splatmend.core.guidance import Guidance as ReferenceGuidance
from splatmend.core.lora import Lora
from splatmend.core.pixels import crop_to, pad_to_multiple
from splatmend.core.restorer import RestorerTraits, checked
from splatmend.core.turbo.base import encode_prompts, find_base, load_base
from splatmend.core.turbo.guidance import Guidance, guided_weights
from splatmend.core.turbo.network import Turbo
from splatmend.core.turbo.tiny_decoder import TinyDecoded, load_tiny_decoder
from splatmend.core.turbo.weights import TurboWeights, build_turbo

__all__ = [
    "Guide",
    "TurboOptions",
    "TurboRestorer",
    "load_network",
    "load_turbo",
    "turbo_restorer",
]

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Decoder = Literal["full", "taesd"]


@dataclass(frozen=True)
class TurboOptions:
    """Options for running turbo."""

    dtype: Precision = "auto"
    """float16 on CUDA devices, else float32.

    At timestep 999 the step multiplies errors by 14.6, and bfloat16 rounds eight times more
    coarsely than float16. So bfloat16 is never the default. float16 suits the autoencoder too,
    although its configuration says `force_upcast`. That is a default of diffusers' class for
    SDXL, whose autoencoder does overflow. If a frame overflows, it is restored again in
    bfloat16.
    """
    compile: bool = False
    """Whether to use torch.compile with CUDA graphs: minutes for each new shape, then faster.

    Graphs belong to the thread that made them: call such a restorer from one thread.
    """
    channels_last: bool = True
    """Whether channels lie beside each other in memory, as tensor cores read them."""
    decoder: Decoder = "full"
    """"taesd" takes a quarter of the arithmetic, but loses the input's fine detail, because the
    small decoder has no skips."""
    taesd: Path | None = None
    """Folder of the small decoder; None: the hub's cache."""

    def __post_init__(self) -> None:
        for name, allowed in (("dtype", get_args(Precision)), ("decoder", get_args(Decoder))):
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}"
                )


@dataclass(frozen=True)
class Guide:
    """Degradation guidance with estimator and LoRAs: each frame gets weights of its own."""

    guidance: Guidance
    estimator: Callable[[Tensor], Tensor]
    """(n, 3, h, w) in [0, 1] -> degradation scores (n, 2) in [0, 1]."""
    unet_lora: Lora
    vae_lora: Lora

    def weights(self, network: Turbo, score: Tensor) -> dict[str, Tensor]:
        """Compute the network's merged weights for frames of one score (2,)."""
        return guided_weights(network, self.unet_lora, self.vae_lora, self.guidance, score)


@dataclass(frozen=True)
class TurboRestorer:
    """A restorer around a turbo network; see `load_turbo`."""

    traits: RestorerTraits
    network: Turbo | TinyDecoded
    forward: Callable[..., Tensor]
    """The network, or its compiled form; both take the same arguments."""
    device: torch.device
    dtype: torch.dtype
    memory_format: torch.memory_format
    guide: Guide | None = None

    @checked
    def __call__(self, rgb: Tensor, guidance: ReferenceGuidance | None = None) -> Tensor:
        """Restore in `dtype`; padding, step and result are float32.

        Only the view of the guidance is used. Change and confidence are for other restorers.
        """
        source = _upload(rgb, self.device)
        padded = pad_to_multiple(source, self.traits.multiple)
        view = None
        if self.traits.takes_guidance and guidance is not None and guidance.view is not None:
            view = pad_to_multiple(_upload(guidance.view, self.device), self.traits.multiple)
        if self.guide is None:
            restored = self._restore(padded, view)
        else:
            scores = self.guide.estimator(source)
            alone = [None] * len(padded)
            views = alone if view is None else torch.split(view, 1)
            restored = torch.cat(
                [
                    self._restore(frame, beside, self._weights(self.guide, score))
                    for frame, beside, score in zip(
                        torch.split(padded, 1), views, scores, strict=True
                    )
                ]
            )
        return _download(crop_to(restored, (rgb.shape[2], rgb.shape[3])), rgb)

    def _weights(self, guide: Guide, score: Tensor) -> dict[str, Tensor]:
        if isinstance(self.network, TinyDecoded):
            weights = guide.weights(self.network.turbo, score)
            return {f"turbo.{name}": weight for name, weight in weights.items()}
        return guide.weights(self.network, score)

    def _restore(
        self, padded: Tensor, view: Tensor | None, weights: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Restore padded float32 frames, with their views if given -> float32, finite."""
        picture = padded.to(self.dtype, memory_format=self.memory_format)
        more = {}
        if view is not None:
            more["view"] = view.to(self.dtype, memory_format=self.memory_format)
        if weights:
            restored: Tensor = functional_call(self.network, dict(weights), (picture,), more)
        else:
            restored = self.forward(picture, **more)
        if self.dtype != torch.float16:
            return restored
        finite = restored.isfinite().flatten(1).all(1).view(-1, 1, 1, 1)
        if finite.all():
            return restored
        # adapters may drive activations past 65504: bfloat16 is coarser but has the range
        own = {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}
        wide = {name: value.bfloat16() for name, value in {**own, **(weights or {})}.items()}
        more = {name: value.bfloat16() for name, value in more.items()}
        again: Tensor = functional_call(self.network, wide, (picture.bfloat16(),), more)
        return torch.where(finite, restored, again)


def load_turbo(
    weights: TurboWeights,
    *,
    base: str | Path | None = None,
    device: torch.device,
    options: TurboOptions | None = None,
    name: str = "turbo",
) -> TurboRestorer:
    """Put a checkpoint on SD-Turbo and make a restorer of it.

    Args:
        weights: Weights from `splatmend.core.turbo.files.read_turbo`.
        base: Folder of SD-Turbo; see `find_base`.
        device: Device to run on.
        options: Precision, layout, compilation, decoder.
        name: Name for tables and logs.

    Raises:
        ModelError: SD-Turbo or the small decoder cannot be found.
        CheckpointError: a file is damaged or fits no other.
    """
    network = load_network(weights, base=base)
    guide = None
    if weights.guidance is not None:
        from splatmend.core.estimator.network import load_estimator  # only guidance asks for scores

        guide = Guide(weights.guidance, load_estimator(), weights.unet_lora, weights.vae_lora)
    return turbo_restorer(network, device=device, options=options, guide=guide, name=name)


def load_network(weights: TurboWeights, *, base: str | Path | None = None) -> Turbo:
    """Load SD-Turbo with a checkpoint: float32, on the CPU; guided LoRAs stay unmerged.

    Raises:
        ModelError: SD-Turbo cannot be found.
        CheckpointError: a file is damaged or fits no other.
    """
    folder = find_base(base, words=weights.prompts is None)
    prompts = weights.prompts
    if prompts is None:  # before the networks, so that the text encoder is gone by then
        prompts = encode_prompts(folder, weights.settings.prompt_texts)
    return build_turbo(*load_base(folder), prompts, weights)


def turbo_restorer(
    network: Turbo,
    *,
    device: torch.device,
    options: TurboOptions | None = None,
    guide: Guide | None = None,
    name: str = "turbo",
) -> TurboRestorer:
    """Make a restorer of a network, which is converted in place.

    Raises:
        InputError: compilation together with guidance, whose weights change with each frame.
    """
    options = options or TurboOptions()
    if options.compile and guide is not None:
        raise InputError("a guided checkpoint has other weights for each frame: do not compile it")
    dtype = _precision(options.dtype, device)
    # Group norms and attention see the whole picture, so tiles differ slightly in tone from the
    # whole picture. The stated reach is therefore one cell of the coarsest grid, and the edges
    # of tiles are blended.
    traits = RestorerTraits(
        name,
        multiple=network.multiple,
        period=network.period,
        reach=network.period,
        takes_guidance=network.settings.views,
    )
    used: Turbo | TinyDecoded = network
    if options.decoder == "taesd":
        used = TinyDecoded(network, load_tiny_decoder(options.taesd))
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    used.to(device, dtype).to(memory_format=layout)
    used.eval().requires_grad_(requires_grad=False)
    forward = _compiled(used) if options.compile else used
    guide = guide and _moved(guide, device, dtype)
    return TurboRestorer(traits, used, forward, device, dtype, layout, guide)


def _precision(wanted: Precision, device: torch.device) -> torch.dtype:
    if wanted == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, wanted)
    return dtype


def _compiled(network: nn.Module) -> Callable[..., Tensor]:
    """Compile to one CUDA graph a shape; callers copy the result before the next call."""
    # not fullgraph: after eight shapes torch then falls back instead of failing
    compiled = torch.compile(network, mode="reduce-overhead", dynamic=False)

    def forward(picture: Tensor, **view: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        restored: Tensor = compiled(picture, **view)
        return restored

    return forward


def _moved(guide: Guide, device: torch.device, dtype: torch.dtype) -> Guide:
    """Move the guide to the device once, not for each frame; scores stay float32."""

    def moved(lora: Lora) -> Lora:
        halves = (lora.down, lora.up)
        down, up = ({n: t.to(device, dtype) for n, t in half.items()} for half in halves)
        return replace(lora, down=down, up=up)

    guidance = guide.guidance.to(device).eval().requires_grad_(requires_grad=False)
    estimator = guide.estimator
    if isinstance(estimator, nn.Module):
        estimator = estimator.to(device).eval().requires_grad_(requires_grad=False)
    return Guide(guidance, estimator, moved(guide.unet_lora), moved(guide.vae_lora))


def _upload(rgb: Tensor, device: torch.device) -> Tensor:
    """Copy to the device as float32, through page-locked memory, which saves a copy."""
    if device.type == "cuda" and rgb.device.type == "cpu":
        rgb = rgb.pin_memory()
    return rgb.to(device, torch.float32, non_blocking=True)


def _download(restored: Tensor, like: Tensor) -> Tensor:
    """Copy to the device and dtype of `like`."""
    if restored.device.type != "cuda" or like.device.type != "cpu":
        return restored.to(like.device, like.dtype).contiguous()
    target = torch.empty(like.shape, dtype=like.dtype, pin_memory=True)
    target.copy_(restored.to(like.dtype), non_blocking=True)
    torch.cuda.current_stream(restored.device).synchronize()
    return target
