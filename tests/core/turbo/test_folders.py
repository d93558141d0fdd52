"""Folders: NVIDIA's Difix pipeline, and adapters that peft and we read and write."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load, save_file
from torch import Tensor, nn

from splatmend.core import CheckpointError, InputError
from splatmend.core.lora import Lora, merge_lora
from splatmend.core.turbo.files import read_turbo, read_turbo_kind
from splatmend.core.turbo.folders import save_adapters
from splatmend.core.turbo.guidance import Guidance
from splatmend.core.turbo.network import TurboSettings
from splatmend.core.turbo.weights import TurboWeights


@pytest.fixture
def difix_pickle(upstream: Callable[[str], Path]) -> Path:
    return upstream("difix")


@pytest.fixture
def difix_folder(difix_pickle: Path, vector: Callable[[str], bytes], tmp_path: Path) -> Path:
    """nvidia/difix in miniature: the autoencoder is saved with its adapter in place."""
    values = torch.load(difix_pickle, weights_only=True)
    base = load(vector("base.safetensors"))
    wrapped = {n.partition(".lora_A.")[0] for n in values["state_dict_vae"] if ".lora_A." in n}
    vae = dict(values["state_dict_vae"])
    for name, value in base.items():
        module, _, parameter = name.removeprefix("vae.").rpartition(".")
        if name.startswith("vae."):
            inner = ".base_layer" if module in wrapped else ""
            vae[f"{module}{inner}.{parameter}"] = value.float()
    folder = tmp_path / "difix"
    for part, state in (("unet", values["state_dict_unet"]), ("vae", vae)):
        (folder / part).mkdir(parents=True)
        save_file(dict(state), folder / part / "diffusion_pytorch_model.safetensors")
    index = {
        "_class_name": "DifixPipeline",
        "_name_or_path": "nvidia/difix",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["autoencoder_kl", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    config = {"gamma": 1.0, "ignore_skip": False, "lora_rank": 2}
    (folder / "vae" / "config.json").write_text(json.dumps(config))
    (folder / "vae" / "autoencoder_kl.py").write_text("raise SystemExit('executed')")
    return folder


def test_the_difix_folder_says_what_its_pickle_says(difix_folder: Path, difix_pickle: Path) -> None:
    kind, weights = read_turbo_kind(difix_folder)
    pickled = read_turbo(difix_pickle)
    assert kind == "Difix folder"
    assert weights.settings == pickled.settings
    assert (weights.vae_lora.rank, weights.vae_lora.scale) == (2, 4.0)
    assert same(weights.vae_lora.down, pickled.vae_lora.down)
    assert same(weights.vae_lora.up, pickled.vae_lora.up)
    assert same(weights.unet_plain, pickled.unet_plain)
    whole, skips = weights.vae_plain, pickled.vae_plain
    assert same({name: whole[name] for name in skips}, skips)
    # the base's own autoencoder comes too, under its plain names
    assert {"encoder.conv_in.weight", "decoder.conv_in.weight"} < whole.keys()
    assert not any("base_layer" in name for name in whole)


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


def edited(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_difix_ref_is_told_by_its_own_code_or_its_name(difix_folder: Path) -> None:
    index = difix_folder / "model_index.json"
    plain = read_turbo(difix_folder)
    assert not plain.settings.views
    original = index.read_text()
    for change in (
        {"unet": ["unet_2d_condition", "UNet2DConditionModel"]},
        {"_name_or_path": "nvidia/difix_ref"},
    ):
        edited(index, **change)
        mixing = read_turbo(difix_folder)
        assert mixing.settings == replace(plain.settings, views=True)
        assert same(mixing.unet_plain, plain.unet_plain)
        index.write_text(original)
    (difix_folder / "unet" / "unet_2d_condition.py").write_text("raise SystemExit('executed')")
    assert read_turbo(difix_folder).settings.views


def test_bases_are_refused(difix_folder: Path) -> None:
    weights = difix_folder / "vae" / "diffusion_pytorch_model.safetensors"
    base = {k: v for k, v in load(weights.read_bytes()).items() if "skip" not in k}
    save_file(base, weights)
    with pytest.raises(CheckpointError, match="give it as the base"):
        read_turbo(difix_folder)
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(CheckpointError, match=r"lacks diffusion_pytorch_model\.safetensors"):
        read_turbo(difix_folder)


def test_further_weights_that_mix_views_are_refused(difix_pickle: Path, tmp_path: Path) -> None:
    values = torch.load(difix_pickle, weights_only=True)
    values["state_dict_unet"]["view_mixer.weight"] = torch.ones(2)
    torch.save(values, tmp_path / "mv.pkl")
    with pytest.raises(CheckpointError, match="weights of their own are not supported"):
        read_turbo(tmp_path / "mv.pkl")


@pytest.fixture
def unet(tiny_base: Path) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(tiny_base / "unet", use_safetensors=True)


def run_unet(unet: nn.Module) -> Tensor:
    draw = torch.Generator().manual_seed(4)
    latent = torch.randn(1, 4, 8, 8, generator=draw)
    words = torch.randn(1, 5, unet.config.cross_attention_dim, generator=draw)
    with torch.no_grad():
        return unet.eval()(latent, 10, encoder_hidden_states=words).sample


def test_a_folder_that_peft_saved(
    unet: UNet2DConditionModel, tiny_base: Path, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    targets = ["to_q", "conv1", "proj_in"]
    config = LoraConfig(
        r=4, lora_alpha=6, target_modules=targets, init_lora_weights=False,
        modules_to_save=["conv_in"],
    )  # fmt: skip
    adapted = get_peft_model(unet, config)
    nn.init.normal_(adapted.base_model.model.conv_in.modules_to_save["default"].weight)
    adapted.save_pretrained(tmp_path / "adapter")
    kind, weights = read_turbo_kind(tmp_path / "adapter")
    assert kind == "peft adapters"
    assert (weights.unet_lora.rank, weights.unet_lora.scale) == (4, 1.5)
    assert set(weights.unet_lora.targets) == set(targets)
    assert not weights.settings.skips
    fresh = UNet2DConditionModel.from_pretrained(tiny_base / "unet", use_safetensors=True)
    assert not torch.allclose(run_unet(fresh), run_unet(adapted), atol=1e-2)
    fresh.load_state_dict(dict(weights.unet_plain), strict=False)
    merge_lora(fresh, weights.unet_lora)
    torch.testing.assert_close(run_unet(fresh), run_unet(adapted), atol=1e-4, rtol=1e-4)


def random_weights(unet: nn.Module) -> TurboWeights:
    """A LoRA and a conv_in for the tiny UNet, and one skip convolution with its LoRA."""
    down, up = {}, {}
    for name, module in unet.named_modules():
        if name.endswith(("conv1", "to_out.0")):
            weight = module.weight
            down[name] = torch.randn(4, *weight.shape[1:]) / 8
            up[name] = torch.randn(len(weight), 4, *[1] * (weight.ndim - 2))
    skip = "decoder.skip_conv_1"
    return TurboWeights(
        TurboSettings(timestep=499, gamma=0.5, prompt="a face"),
        Lora(4, 12.0, ("conv1", "to_out.0"), down, up),
        Lora(
            2, 8.0, (skip,),
            {skip: torch.randn(2, 32, 1, 1)}, {skip: torch.randn(32, 2, 1, 1)},
        ),
        {"conv_in.weight": torch.randn_like(unet.conv_in.weight)},
        {f"{skip}.weight": torch.randn(32, 32, 1, 1)},
    )  # fmt: skip


def test_adapter_folders_are_read_by_us_and_by_peft(
    unet: UNet2DConditionModel, tiny_base: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    weights = random_weights(unet)
    save_adapters(tmp_path / "adapters", weights)
    again = read_turbo(tmp_path / "adapters")
    assert again.settings == weights.settings
    for lora, written in (
        (again.unet_lora, weights.unet_lora),
        (again.vae_lora, weights.vae_lora),
    ):
        assert (lora.rank, lora.alpha, lora.targets) == (
            written.rank,
            written.alpha,
            written.targets,
        )
        assert same(lora.down, written.down)
        assert same(lora.up, written.up)
    assert same(again.unet_plain, weights.unet_plain)
    assert same(again.vae_plain, weights.vae_plain)
    adapted = PeftModel.from_pretrained(unet, tmp_path / "adapters" / "unet")
    fresh = UNet2DConditionModel.from_pretrained(tiny_base / "unet", use_safetensors=True)
    fresh.load_state_dict(dict(weights.unet_plain), strict=False)
    merge_lora(fresh, weights.unet_lora)
    torch.testing.assert_close(run_unet(fresh), run_unet(adapted), atol=1e-4, rtol=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == ["adapters"]


@pytest.mark.parametrize(
    "values",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"peft_type": "LOHA"},
        {"rank_pattern": {"conv1": 8}},
        {"alpha_pattern": {"conv1": 8}},
        {"bias": "all"},
        {"r": 5},
        {"r": "4"},
        {"lora_alpha": None},
        {"target_modules": None},
    ],
)
def test_adapters_that_are_not_plain_lora_are_refused(
    values: dict[str, object], unet: UNet2DConditionModel, tmp_path: Path
) -> None:
    folder = tmp_path / "adapters"
    save_adapters(folder, random_weights(unet))
    edited(folder / "unet" / "adapter_config.json", **values)
    with pytest.raises(CheckpointError) as caught:
        read_turbo(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_of_something_else_are_refused(unet: UNet2DConditionModel, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"must hold model_index\.json.*adapter_config"):
        read_turbo(tmp_path)
    save_adapters(tmp_path / "adapters", random_weights(unet))
    (tmp_path / "adapters" / "vae" / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="missing, truncated or another format"):
        read_turbo(tmp_path / "adapters")
    (tmp_path / "adapters" / "vae" / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json cannot be read"):
        read_turbo(tmp_path / "adapters")
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_turbo(tmp_path / "nowhere.pkl")


def test_adapter_folders_hold_no_guidance_and_no_whole_networks(
    difix_pickle: Path, tmp_path: Path
) -> None:
    guided = TurboWeights(TurboSettings(), guidance=Guidance(2, 2))
    with pytest.raises(InputError, match="cannot hold guidance"):
        save_adapters(tmp_path / "adapters", guided)
    with pytest.raises(InputError, match="weights of the unet without a LoRA"):
        save_adapters(tmp_path / "adapters", read_turbo(difix_pickle))
    assert not list(tmp_path.glob("adapters*"))
