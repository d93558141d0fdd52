"""Reference views, mixed in by self-attention: against a computation of its own, and in use."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from numpy.typing import NDArray
from torch import Tensor, nn

from splatmend.core import (
    Frame,
    Guidance,
    Guide,
    InputError,
    Reference,
    References,
    RestoreOptions,
    Tiled,
    load_restorer,
    restore_frames,
    restore_guided,
    takes_guidance,
)
from splatmend.core.lora import Lora, merge_lora
from splatmend.core.turbo.files import read_turbo, save_turbo
from splatmend.core.turbo.guidance import Guidance as DegradationGuidance
from splatmend.core.turbo.network import Turbo, TurboSettings
from splatmend.core.turbo.restorer import Guide as DegradationGuide
from splatmend.core.turbo.restorer import TurboOptions, TurboRestorer, turbo_restorer

CPU = torch.device("cpu")
DIFIX = {"timestep": 199, "input_range": "pm1"}
Make = Callable[..., Turbo]


def trained(network: Turbo) -> Turbo:
    """Skips and attention that matter: those of a fresh miniature hardly do anything."""
    draw = torch.Generator().manual_seed(21)
    for index in range(1, 5):
        weight = getattr(network.vae.decoder, f"skip_conv_{index}").weight
        nn.init.normal_(weight, std=0.2, generator=draw)
    for name, parameter in network.unet.named_parameters():
        if ".attn1." in name and name.endswith("weight"):
            nn.init.normal_(parameter, std=0.15, generator=draw)
    return network.requires_grad_(requires_grad=False)


@pytest.fixture
def mixing(make_turbo: Make) -> Turbo:
    return trained(make_turbo(views=True, **DIFIX))


@pytest.fixture
def pictures() -> tuple[Tensor, Tensor]:
    """Two frames and a view for each."""
    frames, views = torch.rand(2, 2, 3, 64, 80)
    return frames, views


class PlainAttention:
    """Softmax attention from its formula; a query sees the tokens of all pictures of its group."""

    def __init__(self, views: int) -> None:
        self.views = views

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        **_: object,
    ) -> Tensor:
        seen = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        key, value = attn.to_k(seen), attn.to_v(seen)
        if encoder_hidden_states is None:
            key, value = (self.of_all(x) for x in (key, value))
        query, key, value = (
            x.reshape(len(x), x.shape[1], attn.heads, -1)
            for x in (attn.to_q(hidden_states), key, value)
        )
        likeness = torch.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
        answer = torch.einsum(
            "bhqk,bkhd->bqhd", likeness.exp() / likeness.exp().sum(-1, True), value
        )
        return attn.to_out[0](answer.flatten(2))

    def of_all(self, tokens: Tensor) -> Tensor:
        """For each picture of (b, t, d) the tokens of its whole group, (b, views * t, d)."""
        groups = [torch.cat(list(group)) for group in tokens.split(self.views)]
        return torch.stack([group for group in groups for _ in range(self.views)])


def as_upstream(network: Turbo, *views: Tensor) -> Tensor:
    """Difix's steps over a plain network: all views of a frame go the whole way, the first counts.

    Of (n, 3, h, w) each, in the order frame, reference; the posterior's mode in place of a sample.
    """
    network.unet.set_attn_processor(PlainAttention(len(views)))
    batch = torch.cat([torch.stack(group) for group in zip(*views, strict=True)])  # (b v) c h w
    moments, skips = network.encode(2 * batch - 1)
    factor = network.vae.config.scaling_factor
    latent = moments.chunk(2, 1)[0] * factor
    prompt = network.prompts.repeat(len(batch), 1, 1)
    noise = network.unet(latent, 199, encoder_hidden_states=prompt).sample
    share = 0.755238  # of the signal at 199
    clean = (latent - (1 - share) ** 0.5 * noise) / share**0.5
    whole = network.decode(clean / factor, skips).clamp(-1, 1)
    return whole[:: len(views)] / 2 + 0.5


@torch.no_grad()
def test_it_is_attention_over_the_tokens_of_both_views(
    mixing: Turbo, make_turbo: Make, pictures: tuple[Tensor, Tensor]
) -> None:
    frames, views = pictures
    restored = mixing(frames, view=views)
    plain = trained(make_turbo(**DIFIX))
    torch.testing.assert_close(restored, as_upstream(plain, frames, views), rtol=0, atol=1e-4)
    alone = as_upstream(plain, frames)
    torch.testing.assert_close(mixing(frames), alone, rtol=0, atol=1e-4)
    assert (restored - alone).abs().max() > 0.02  # the view does matter


@torch.no_grad()
def test_without_a_view_nothing_has_changed(
    mixing: Turbo, make_turbo: Make, pictures: tuple[Tensor, Tensor]
) -> None:
    single = trained(make_turbo(**DIFIX))
    assert torch.equal(mixing(pictures[0]), single(pictures[0]))


@torch.no_grad()
def test_a_frame_sees_its_own_view_alone(mixing: Turbo, pictures: tuple[Tensor, Tensor]) -> None:
    frames, views = pictures
    together = mixing(frames, view=views)
    other = mixing(frames, view=torch.stack((views[0], frames[0])))
    assert torch.equal(other[0], together[0])
    assert (other[1] - together[1]).abs().max() > 0.01
    torch.testing.assert_close(mixing(frames[1:], view=views[1:]), together[1:], rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_frame_as_its_own_view_adds_nothing(
    mixing: Turbo, pictures: tuple[Tensor, Tensor]
) -> None:
    frames, _ = pictures
    torch.testing.assert_close(mixing(frames, view=frames), mixing(frames), rtol=0, atol=1e-5)


def test_views_that_cannot_be(make_turbo: Make, mixing: Turbo) -> None:
    rgb = torch.rand(1, 3, 64, 64)
    with pytest.raises(InputError, match="trained with views"):
        make_turbo()(rgb, view=rgb)
    with pytest.raises(InputError, match=r"shape of its frames \(1, 3, 64, 64\).*\(1, 3, 64, 72\)"):
        mixing(rgb, view=torch.rand(1, 3, 64, 72))


@pytest.mark.slow
def test_with_a_view_it_compiles_in_one_piece() -> None:
    unet = UNet2DConditionModel(
        block_out_channels=(8,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=2,
        use_linear_projection=True,
    )
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    settings = TurboSettings(views=True)
    network = Turbo(unet, vae, torch.zeros(1, 77, 16), settings).eval().requires_grad_(False)
    compiled = torch.compile(network, backend="eager", fullgraph=True, dynamic=False)
    rgb, view = torch.rand(2, 1, 3, 16, 16)
    assert torch.equal(compiled(rgb, view=view), network(rgb, view=view))


def hint(view: Tensor, **planes: Any) -> Guidance:
    """Guidance whose change would show wherever it is blended in."""
    return Guidance(torch.full_like(view, 0.5), torch.ones_like(view[:, :1]), view=view, **planes)


@pytest.fixture
def restorer(mixing: Turbo) -> TurboRestorer:
    return turbo_restorer(mixing, device=CPU, options=TurboOptions(channels_last=False))


@torch.no_grad()
def test_the_restorer_reads_views_from_guidance(restorer: TurboRestorer) -> None:
    frames, views = torch.rand(2, 2, 3, 61, 67)  # grown to 64 x 72 by mirroring
    assert takes_guidance(restorer)

    def grown(plane: Tensor) -> Tensor:
        return nn.functional.pad(plane, (0, 5, 0, 3), mode="reflect")

    expected = restorer.network(grown(frames), view=grown(views))[..., :61, :67]
    restored = restore_guided(restorer, frames, hint(views))
    torch.testing.assert_close(restored, expected, rtol=0, atol=1e-6)
    assert torch.equal(restorer(frames, replace(hint(views), view=None)), restorer(frames))
    assert (restored - restorer(frames)).abs().max() > 0.02


def test_other_checkpoints_are_blended_as_ever(make_turbo: Make) -> None:
    restorer = turbo_restorer(make_turbo(), device=CPU)
    frames, views = torch.rand(2, 1, 3, 64, 64)
    assert not takes_guidance(restorer)
    proposed = (frames + 0.5).clamp(0, 1)
    torch.testing.assert_close(restore_guided(restorer, frames, hint(views)), proposed)


def test_key_pairs_are_still_laid_over(restorer: TurboRestorer) -> None:
    frames, views = torch.rand(2, 1, 3, 64, 64)
    restored = restore_guided(restorer, frames, hint(views, exact=True))
    torch.testing.assert_close(restored, (frames + 0.5).clamp(0, 1))


def test_each_tile_sees_its_part_of_the_view(restorer: TurboRestorer) -> None:
    frame, view = torch.rand(2, 1, 3, 64, 320)
    restored = Tiled(restorer, 256)(frame, hint(view))
    left, right = np.s_[..., :256], np.s_[..., 64:]
    first, second = (restorer(frame[part], hint(view[part])) for part in (left, right))
    torch.testing.assert_close(restored[..., :128], first[..., :128], rtol=0, atol=1e-6)
    torch.testing.assert_close(restored[..., -128:], second[..., -128:], rtol=0, atol=1e-6)


def test_half_precision_and_the_small_decoder(
    mixing: Turbo, make_turbo: Make, tmp_path: Path
) -> None:
    frames, views = torch.rand(2, 1, 3, 64, 64)
    with torch.no_grad():
        exact = mixing(frames, view=views)
    half = turbo_restorer(mixing, device=CPU, options=TurboOptions(dtype="bfloat16"))
    assert (half(frames, hint(views)) - exact).abs().mean() < 0.02
    channels = (8, 8, 8, 8)
    AutoencoderTiny(
        encoder_block_out_channels=channels, decoder_block_out_channels=channels
    ).save_pretrained(tmp_path / "taesd")
    options = TurboOptions(decoder="taesd", taesd=tmp_path / "taesd")
    small = turbo_restorer(trained(make_turbo(views=True)), device=CPU, options=options)
    assert (small(frames, hint(views)) - small(frames)).abs().max() > 1e-3


def test_what_overflows_float16_is_done_again_with_its_view(mixing: Turbo) -> None:
    frames, views = torch.full((1, 3, 64, 64), 0.9), torch.rand(1, 3, 64, 64)
    mixing.vae.encoder.conv_in.weight.mul_(1e4)
    mixing.vae.encoder.down_blocks[1].resnets[0].conv_shortcut.weight.mul_(100)
    exact = mixing(frames, view=views)
    half = turbo_restorer(mixing, device=CPU, options=TurboOptions(dtype="float16"))
    assert not half.forward(frames.half(), view=views.half()).isfinite().all()
    assert (half(frames, hint(views)) - exact).abs().mean() < 0.1


def test_degradation_guidance_and_views_together(mixing: Turbo, make_turbo: Make) -> None:
    lora = Lora(
        2, down={"conv_out": torch.randn(2, 16, 3, 3)}, up={"conv_out": torch.randn(4, 2, 1, 1)}
    )
    guide = DegradationGuide(
        DegradationGuidance(2, 2),  # a fresh one leaves LoRAs as they are
        lambda rgb: rgb.mean((1, 2, 3))[:, None].expand(-1, 2),
        lora,
        Lora(2),
    )
    restorer = turbo_restorer(mixing, device=CPU, guide=guide)
    frames, views = torch.rand(2, 2, 3, 64, 64)
    merged = trained(make_turbo(views=True, **DIFIX))
    merge_lora(merged.unet, lora)
    expected = merged(frames, view=views)
    torch.testing.assert_close(restorer(frames, hint(views)), expected, rtol=0, atol=1e-4)
    assert (restorer(frames) - expected).abs().amax((1, 2, 3)).min() > 0.02


def scene(blur: float) -> NDArray[np.uint8]:
    """(64, 64, 3): noise with much contrast."""
    noise = np.random.default_rng(1).normal(size=(64, 64, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), blur)
    return np.clip(128 + 50 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def test_frames_of_a_batch_with_and_without_a_reference(restorer: TurboRestorer) -> None:
    """The reference is found in the first frame only; each is restored as it would be alone."""
    known, strange = scene(3), np.ascontiguousarray(scene(0.3)[::-1])
    references = References([Reference(picture=cv2.GaussianBlur(known, (0, 0), 1))])
    options = RestoreOptions(magnify=1, color_lock=False)

    def restored(*pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
        frames = [Frame(color=picture) for picture in pictures]
        answers = restore_frames(restorer, frames, options, references=references)
        return np.stack([answer.color for answer in answers])

    assert Guide(references).guide(strange).guidance.view is None
    alone = [restored(picture)[0] for picture in (known, strange)]
    together = restored(known, strange)
    assert np.abs(together.astype(int) - np.stack(alone)).max() <= 1
    bare = restore_frames(restorer, [Frame(color=p) for p in (known, strange)], options)
    assert np.abs(alone[0].astype(int) - bare[0].color).max() > 4
    assert np.abs(alone[1].astype(int) - bare[1].color).max() <= 1


def test_our_files_say_whether_there_were_views(
    tiny_turbo: Path, tiny_base: Path, tmp_path: Path
) -> None:
    weights = read_turbo(tiny_turbo)
    assert not weights.settings.views
    assert not takes_guidance(load_restorer(tiny_turbo, device="cpu", base=tiny_base))
    path = tmp_path / "views.safetensors"
    save_turbo(path, replace(weights, settings=replace(weights.settings, views=True)))
    restorer = load_restorer(path, device="cpu", base=tiny_base)
    assert takes_guidance(restorer)
    rgb = torch.rand(1, 3, 64, 64)
    plain = load_restorer(tiny_turbo, device="cpu", base=tiny_base)
    assert torch.equal(restorer(rgb), plain(rgb))
    assert (restorer(rgb, hint(torch.rand_like(rgb))) - plain(rgb)).abs().max() > 1e-3


@pytest.mark.needs_cuda
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu(mixing: Turbo, make_turbo: Make, *, compiled: bool) -> None:
    network = trained(make_turbo(views=True, **DIFIX))
    options = TurboOptions(compile=compiled)
    fast = turbo_restorer(network, device=torch.device("cuda"), options=options)
    exact = turbo_restorer(mixing, device=CPU)
    frames, views = torch.rand(2, 1, 3, 64, 64)
    for hinted in (hint(views), None, hint(frames)):
        assert (fast(frames, hinted) - exact(frames, hinted)).abs().max() < 0.05
