"""Upstream's files and ours: what is read from them, and what is written."""

import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splatmend.core import InputError
from splatmend.core.checkpoint import read_header
from splatmend.core.turbo.adapters import UNET_TARGETS, VAE_TARGETS
from splatmend.core.turbo.files import read_turbo, read_turbo_kind, save_turbo
from splatmend.core.turbo.network import TurboSettings
from splatmend.core.turbo.pickles import save_img2img_turbo
from splatmend.core.turbo.weights import TurboWeights

NAMES = ("img2img_turbo", "difix", "s3diff")
Content = dict[str, Any]


def tensors_of(weights: TurboWeights) -> dict[str, Tensor]:
    parts: dict[str, Mapping[str, Tensor]] = {
        "unet down": weights.unet_lora.down,
        "unet up": weights.unet_lora.up,
        "vae down": weights.vae_lora.down,
        "vae up": weights.vae_lora.up,
        "unet plain": weights.unet_plain,
        "vae plain": weights.vae_plain,
        "guidance": weights.guidance.state_dict() if weights.guidance else {},
        "prompts": {} if weights.prompts is None else {"prompts": weights.prompts},
    }
    return {f"{part} {name}": v for part, values in parts.items() for name, v in values.items()}


def assert_same(one: TurboWeights, other: TurboWeights) -> None:
    assert one.settings == other.settings
    for a, b in ((one.unet_lora, other.unet_lora), (one.vae_lora, other.vae_lora)):
        assert (a.rank, a.alpha, a.targets) == (b.rank, b.alpha, b.targets)
    ours, theirs = tensors_of(one), tensors_of(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_img2img_turbo(upstream: Callable[[str], Path], content: Callable[[str], Content]) -> None:
    kind, weights = read_turbo_kind(upstream("img2img_turbo"))
    assert kind == "img2img-turbo"
    assert weights.settings == TurboSettings(timestep=999, input_range="01", skips=True)
    assert (weights.unet_lora.rank, weights.unet_lora.scale) == (4, 2.0)
    assert (weights.vae_lora.rank, weights.vae_lora.scale) == (2, 4.0)
    assert weights.unet_lora.targets == UNET_TARGETS
    assert weights.vae_lora.targets == VAE_TARGETS
    assert {n.split(".")[0] for n in weights.vae_lora.down} == {"encoder", "decoder"}
    assert weights.unet_plain.keys() == {"conv_in.weight", "conv_in.bias"}
    names = {f"decoder.skip_conv_{i}" for i in range(1, 5)}
    assert weights.vae_plain.keys() == {f"{name}.weight" for name in names}
    assert names < weights.vae_lora.down.keys()
    stored = content("img2img_turbo")["state_dict_vae"]
    plain = weights.vae_plain["decoder.skip_conv_2.weight"]
    assert torch.equal(plain, stored["decoder.skip_conv_2.base_layer.weight"])
    assert weights.prompts is None
    assert weights.guidance is None


def test_the_sketch_models_trained_conv_in_is_taken(
    content: Callable[[str], Content], tmp_path: Path
) -> None:
    values = content("img2img_turbo")
    unet = values["state_dict_unet"]
    for parameter in ("weight", "bias"):
        trained = unet.pop(f"conv_in.{parameter}")
        unet[f"conv_in.conv_in_pretrained.{parameter}"] = torch.zeros_like(trained)
        unet[f"conv_in.conv_in_curr.{parameter}"] = trained
    torch.save(values, tmp_path / "sketch.pkl")
    weights = read_turbo(tmp_path / "sketch.pkl")
    assert weights.unet_plain.keys() == {"conv_in.weight", "conv_in.bias"}
    assert weights.unet_plain["conv_in.weight"].abs().sum() > 0


@pytest.mark.slow
def test_difix(upstream: Callable[[str], Path], content: Callable[[str], Content]) -> None:
    kind, weights = read_turbo_kind(upstream("difix"))
    assert kind == "Difix"
    assert weights.settings == TurboSettings(
        timestep=199, input_range="pm1", skips=True, prompt="remove degradation"
    )
    assert not weights.unet_lora.down
    assert all(name.startswith("decoder.") for name in weights.vae_lora.down)
    values = content("difix")
    assert "optimizer" in values
    assert weights.unet_plain.keys() == values["state_dict_unet"].keys()


def test_s3diff(upstream: Callable[[str], Path], content: Callable[[str], Content]) -> None:
    kind, weights = read_turbo_kind(upstream("s3diff"))
    settings = weights.settings
    assert kind == "S3Diff"
    assert (settings.timestep, settings.input_range, settings.skips) == (999, "pm1", False)
    assert settings.cfg_scale == 1.07
    wanted, unwanted = settings.prompt.split("\n")
    assert wanted.startswith("A high-resolution, 8K, ultra-realistic image with sharp focus")
    assert unwanted.endswith("low quality, deformation, low resolution, oversmooth")
    assert weights.prompts is None
    assert isinstance(weights.vae_lora.targets, str)
    assert all(name.startswith("encoder.") for name in weights.vae_lora.down)
    assert weights.guidance is not None
    values, state = content("s3diff"), weights.guidance.state_dict()
    assert isinstance(values["w"], nn.Parameter)
    assert torch.equal(state["w"], values["w"])
    fuse = values["state_dict_unet_fuse_mlp"]["weight"]
    assert torch.equal(state["unet_fuse_mlp.weight"], fuse)
    blocks = values["state_embeddings"]["state_dict_vae_block"]["weight"]
    assert torch.equal(state["vae_block_embeddings.weight"], blocks)


def test_parameters_load_and_need_no_gradient(
    content: Callable[[str], Content], tmp_path: Path
) -> None:
    values = content("img2img_turbo")
    before = values["state_dict_unet"]
    values["state_dict_unet"] = {k: nn.Parameter(v) for k, v in before.items()}
    torch.save(values, tmp_path / "trained.pkl")
    lora = read_turbo(tmp_path / "trained.pkl").unet_lora
    assert all(type(v) is Tensor and not v.requires_grad for v in lora.down.values())
    assert torch.equal(lora.down["conv_out"], before["conv_out.lora_A.default.weight"])


def test_img2img_turbo_is_written_as_upstream_wrote_it(
    upstream: Callable[[str], Path], content: Callable[[str], Content], tmp_path: Path
) -> None:
    save_img2img_turbo(tmp_path / "ours.pkl", read_turbo(upstream("img2img_turbo")))
    ours = torch.load(tmp_path / "ours.pkl", weights_only=True)
    theirs = content("img2img_turbo")
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if isinstance(value, dict):
            assert ours[name].keys() == value.keys()
            assert all(torch.equal(ours[name][key], value[key]) for key in value)
        else:
            assert ours[name] == value
            assert type(ours[name]) is type(value)


def test_another_scale_goes_into_the_weights_of_an_img2img_turbo_file(
    upstream: Callable[[str], Path], tmp_path: Path
) -> None:
    weights = read_turbo(upstream("img2img_turbo"))
    weights = replace(weights, unet_lora=replace(weights.unet_lora, alpha=16.0))
    save_img2img_turbo(tmp_path / "ours.pkl", weights)
    again = read_turbo(tmp_path / "ours.pkl").unet_lora
    assert again.alpha == 8.0
    for name in ("conv_out", "mid_block.attentions.0.proj_in"):
        assert torch.equal(again.change(name), weights.unet_lora.change(name))


@pytest.mark.parametrize("name", ["difix", "s3diff"])
def test_what_img2img_turbos_programs_cannot_run_is_not_written(
    name: str, upstream: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"write \.safetensors"):
        save_img2img_turbo(tmp_path / "ours.pkl", read_turbo(upstream(name)))
    assert not list(tmp_path.glob("ours*"))


@pytest.mark.parametrize("name", NAMES)
def test_our_format_keeps_everything(
    name: str, upstream: Callable[[str], Path], tmp_path: Path
) -> None:
    weights = replace(read_turbo(upstream(name)), prompts=torch.randn(2, 7, 8))
    path = tmp_path / "ours.safetensors"
    save_turbo(path, weights, notes={"steps": 3})
    kind, again = read_turbo_kind(path)
    assert kind == "Splatmend"
    assert_same(again, weights)
    assert read_header(path).notes == {"steps": 3}
    assert not list(tmp_path.glob("*.part"))


def test_half_precision_spares_guidance_and_prompts(
    upstream: Callable[[str], Path], tmp_path: Path
) -> None:
    weights = replace(read_turbo(upstream("s3diff")), prompts=torch.randn(2, 7, 8))
    save_turbo(tmp_path / "half.safetensors", weights, dtype=torch.float16)
    again = read_turbo(tmp_path / "half.safetensors")
    assert {v.dtype for v in again.unet_lora.up.values()} == {torch.float16}
    assert again.prompts is not None
    assert torch.equal(again.prompts, weights.prompts)
    assert again.guidance is not None
    assert torch.equal(again.guidance.w, weights.guidance.w)


def test_a_length_that_looks_like_a_pickle_is_none(tmp_path: Path) -> None:
    """Safetensors start with the length of their header, in bytes of any value."""
    path, weights = tmp_path / "ours.safetensors", TurboWeights(TurboSettings())
    save_turbo(path, weights, notes={"padding": ""})
    missing = (0x80 - path.read_bytes()[0]) % 256
    save_turbo(path, weights, notes={"padding": " " * missing})
    assert path.read_bytes()[0] == pickle.dumps(None)[0]
    assert_same(read_turbo(path), weights)
