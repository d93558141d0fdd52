"""turbo as a restorer: from files to pictures, precision, guidance, the small decoder."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn
from torch.func import functional_call

from splatmend.core import (
    CheckpointError,
    InputError,
    ModelError,
    RestorerTraits,
    UnknownModelError,
    load_restorer,
)
from splatmend.core.lora import Lora
from splatmend.core.turbo.base import encode_prompts, load_base
from splatmend.core.turbo.files import read_turbo
from splatmend.core.turbo.guidance import Guidance, guided_weights
from splatmend.core.turbo.network import Turbo, TurboSettings
from splatmend.core.turbo.restorer import (
    Guide,
    TurboOptions,
    TurboRestorer,
    load_turbo,
    turbo_restorer,
)
from splatmend.core.turbo.weights import TurboWeights, build_turbo

CPU = torch.device("cpu")


@pytest.fixture
def weights(tiny_turbo: Path) -> TurboWeights:
    return read_turbo(tiny_turbo)


@pytest.fixture
def load(tiny_base: Path, weights: TurboWeights) -> Callable[..., TurboRestorer]:
    """`load(dtype="float16", ...)`: the tiny checkpoint under these options."""

    def loaded(device: str = "cpu", **options: object) -> TurboRestorer:
        chosen = TurboOptions(**options)  # type: ignore[arg-type]
        return load_turbo(weights, base=tiny_base, device=torch.device(device), options=chosen)

    return loaded


def test_a_checkpoint_becomes_a_restorer(
    tiny_turbo: Path, tiny_base: Path, weights: TurboWeights
) -> None:
    restorer = load_restorer(tiny_turbo, device="cpu", base=tiny_base)
    assert restorer.traits == RestorerTraits("tiny", multiple=8, period=64, reach=64)
    assert weights.prompts is not None
    network = build_turbo(*load_base(tiny_base), weights.prompts, weights)
    rgb = torch.rand(1, 3, 64, 128)
    with torch.no_grad():
        expected = network(rgb)
    torch.testing.assert_close(restorer(rgb), expected, rtol=1e-4, atol=1e-5)
    odd = torch.rand(1, 3, 72, 136)  # as pix2pix-turbo, which cuts sides to multiples of 8
    with torch.no_grad():
        torch.testing.assert_close(restorer(odd), network(odd), rtol=1e-4, atol=1e-5)
    plain = build_turbo(*load_base(tiny_base), weights.prompts, TurboWeights(weights.settings))
    with torch.no_grad():
        assert (plain(rgb) - expected).abs().max() > 0.05  # the file's content matters


@pytest.mark.parametrize(("dtype", "limit"), [("float16", 0.02), ("bfloat16", 0.3)])
def test_half_precision_stays_near(
    load: Callable[..., TurboRestorer], dtype: str, limit: float
) -> None:
    rgb = torch.rand(1, 3, 64, 60)
    exact = load(channels_last=False)(rgb)
    assert (load(dtype=dtype)(rgb) - exact).abs().max() < limit
    assert (load(dtype="float32")(rgb) - exact).abs().max() < 1e-4


def test_what_overflows_float16_is_done_again(load: Callable[..., TurboRestorer]) -> None:
    exact, half = load(dtype="float32"), load(dtype="float16")
    for restorer in (exact, half):
        assert isinstance(restorer.network, Turbo)
        encoder = restorer.network.vae.encoder
        encoder.conv_in.weight.mul_(1e4)
        encoder.down_blocks[1].resnets[0].conv_shortcut.weight.mul_(100)
    dark, bright = torch.zeros(1, 3, 64, 64), torch.full((1, 3, 64, 64), 0.9)
    assert not half.forward(bright.half()).isfinite().all()
    restored = half(torch.cat((dark, bright)))
    assert (restored[1:] - exact(bright)).abs().mean() < 0.1
    assert (restored[:1] - half(torch.cat((dark, dark)))[:1]).abs().max() < 1e-3


def test_options_that_cannot_be() -> None:
    with pytest.raises(InputError, match=r"dtype must be one of auto, .*, got 'int8'"):
        TurboOptions(dtype="int8")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="decoder must be one of full, taesd, got 'half'"):
        TurboOptions(decoder="half")  # type: ignore[arg-type]


def guide(rank: int = 2) -> Guide:
    """Guidance as after training, over two layers, by a score that is the frame's mean."""
    guidance = Guidance(rank, rank)
    for layer in (guidance.unet_fuse_mlp, guidance.vae_fuse_mlp):
        nn.init.normal_(layer.weight, std=0.3)
    loras = [
        Lora(rank, down={name: torch.randn(rank, *sides[0])}, up={name: torch.randn(*sides[1])})
        for name, sides in (
            ("conv_out", ((16, 3, 3), (4, rank, 1, 1))),
            ("encoder.conv_in", ((3, 3, 3), (8, rank, 1, 1))),
        )
    ]
    return Guide(guidance, lambda rgb: rgb.mean((1, 2, 3))[:, None].expand(-1, 2), *loras)


def test_each_frame_has_its_own_weights(make_turbo: Callable[..., Turbo]) -> None:
    guided = guide()
    restorer = turbo_restorer(make_turbo(), device=CPU, guide=guided)
    frames = torch.stack([torch.rand(3, 64, 64) * scale for scale in (0.2, 1.0)])
    restored = restorer(frames)
    network = make_turbo()
    for frame, found in zip(frames, restored, strict=True):
        score = frame.mean().expand(2)
        changed = guided_weights(network, guided.unet_lora, guided.vae_lora, guided.guidance, score)
        expected = functional_call(network, changed, (frame[None],))
        torch.testing.assert_close(found[None], expected, rtol=1e-4, atol=1e-4)
    swapped = replace(guided, estimator=lambda rgb: guided.estimator(rgb).flip(0))
    other = turbo_restorer(make_turbo(), device=CPU, guide=swapped)(frames)
    assert (other - restored).abs().amax((1, 2, 3)).min() > 1e-2
    plain = {name: p.clone() for name, p in make_turbo().named_parameters()}
    kept = dict(restorer.network.named_parameters())
    assert all(torch.equal(kept[name], value) for name, value in plain.items())


def test_guidance_is_not_compiled(make_turbo: Callable[..., Turbo]) -> None:
    with pytest.raises(InputError, match="other weights for each frame"):
        turbo_restorer(make_turbo(), device=CPU, guide=guide(), options=TurboOptions(compile=True))


@pytest.fixture
def taesd(tmp_path: Path) -> Path:
    channels = (8, 8, 8, 8)
    AutoencoderTiny(
        encoder_block_out_channels=channels, decoder_block_out_channels=channels
    ).save_pretrained(tmp_path / "taesd")
    return tmp_path / "taesd"


@pytest.mark.slow
def test_the_small_decoder_knows_no_skips(
    load: Callable[..., TurboRestorer], make_turbo: Callable[..., Turbo], taesd: Path
) -> None:
    rgb = torch.rand(2, 3, 70, 64)
    small = load(decoder="taesd", taesd=taesd)
    restored = small(rgb)
    assert restored.shape == rgb.shape
    assert (restored - load()(rgb)).abs().max() > 0.05
    options = TurboOptions(decoder="taesd", taesd=taesd)
    with_skips, without = (
        turbo_restorer(make_turbo(skips=skips), device=CPU, options=options)(rgb)
        for skips in (True, False)
    )
    assert torch.equal(with_skips, without)
    guided = turbo_restorer(make_turbo(), device=CPU, options=options, guide=guide())(rgb)
    assert (guided - with_skips).abs().max() > 1e-3


def test_no_small_decoder_is_one_line(
    load: Callable[..., TurboRestorer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="hf download madebyollin/taesd"):
        load(decoder="taesd")
    with pytest.raises(CheckpointError, match="pickles are not read"):
        load(decoder="taesd", taesd=tmp_path)


@pytest.mark.parametrize(
    ("prompt", "cfg_scale", "words"),
    [("a b", 1.0, ["a b"]), ("a\nb c", 1.5, ["a", "b c"]), ("", 1.5, ["", ""])],
)
def test_words_are_encoded_where_the_file_stores_none(
    base_with_words: Path, weights: TurboWeights, prompt: str, cfg_scale: float, words: list[str]
) -> None:
    settings = TurboSettings(prompt=prompt, cfg_scale=cfg_scale)
    told = replace(weights, settings=settings, prompts=None)
    stored = replace(told, prompts=encode_prompts(base_with_words, words))
    one, other = (load_turbo(w, base=base_with_words, device=CPU) for w in (told, stored))
    rgb = torch.rand(1, 3, 64, 64)
    assert torch.equal(one(rgb), other(rgb))


def test_words_are_asked_for_only_then(
    tiny_base: Path, tiny_turbo: Path, weights: TurboWeights
) -> None:
    assert load_restorer(tiny_turbo, device="cpu", base=tiny_base).traits.name == "tiny"
    with pytest.raises(ModelError, match="no tokenizer/"):
        load_turbo(replace(weights, prompts=None), base=tiny_base, device=CPU)


def test_a_file_for_another_base_is_refused(tiny_base: Path, weights: TurboWeights) -> None:
    foreign = replace(weights, vae_plain={"decoder.skip_conv_1.weight": torch.zeros(8, 8, 1, 1)})
    with pytest.raises(CheckpointError, match="another base model"):
        load_turbo(foreign, base=tiny_base, device=CPU)


def test_turbo_by_name_is_the_checkpoint_of_the_variable(
    tiny_turbo: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPLATMEND_TURBO", raising=False)
    with pytest.raises(ModelError, match=r"SPLATMEND_TURBO.*compact") as raised:
        load_restorer("turbo", device="cpu", base=tiny_base)
    assert "\n" not in str(raised.value)
    monkeypatch.setenv("SPLATMEND_TURBO", str(tiny_turbo.with_name("gone")))
    with pytest.raises(UnknownModelError, match="gone"):
        load_restorer("turbo", device="cpu", base=tiny_base)
    monkeypatch.setenv("SPLATMEND_TURBO", str(tiny_turbo))
    monkeypatch.setenv("SPLATMEND_SD_TURBO", str(tiny_base))
    by_name, by_path = load_restorer("turbo", device="cpu"), load_restorer(tiny_turbo, device="cpu")
    assert by_name.traits.name == "turbo"
    rgb = torch.rand(1, 3, 64, 64)
    assert torch.equal(by_name(rgb), by_path(rgb))


@pytest.mark.parametrize("name", ["folder", "mine.pkl"])
def test_upstreams_formats_go_to_turbo(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix:
        path.write_bytes(b"not a pickle")
    else:
        path.mkdir()
    with pytest.raises(CheckpointError, match=name):
        load_restorer(path, device="cpu")


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_compact_imports_none_of_turbos_libraries() -> None:
    heavy = "{'diffusers', 'peft', 'transformers', 'huggingface_hub', 'accelerate'}"
    loaded = run(
        f"import sys, splatmend.core as core; core.load_restorer('compact', device='cpu'); "
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    assert loaded == "[]"


@pytest.mark.slow
def test_without_diffusers_turbo_says_what_to_install(tiny_turbo: Path) -> None:
    said = run(
        f"import sys; sys.modules['diffusers'] = None\n"
        f"from splatmend.core import ModelError, load_restorer\n"
        f"try: load_restorer({str(tiny_turbo)!r}, device='cpu')\n"
        f"except ModelError as error: print(error)"
    )
    assert "diffusers" in said
    assert "pip install 'splatmend[turbo]'" in said
    assert "\n" not in said


@pytest.mark.needs_cuda
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu(load: Callable[..., TurboRestorer], *, compiled: bool) -> None:
    exact, fast = load("cpu"), load("cuda", compile=compiled)
    assert fast.dtype == torch.float16
    pictures: list[Tensor] = [torch.rand(1, 3, 64, 64) for _ in range(3)]
    restored = [fast(picture) for picture in pictures]  # graphs reuse memory: none is overwritten
    for picture, found in zip(pictures, restored, strict=True):
        assert found.device.type == "cpu"
        assert (found - exact(picture)).abs().max() < 0.05
    assert torch.equal(fast(pictures[0]), restored[0])
