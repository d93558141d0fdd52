"""`splatmend convert`: formats into formats, options for what files do not say, no accidents."""

from pathlib import Path

import pytest
import torch

from splatmend.core import CheckpointError, InputError
from splatmend.core.lora import Lora
from splatmend.core.turbo import base as turbo_base
from splatmend.core.turbo.files import read_turbo, save_turbo
from splatmend.core.turbo.network import TurboSettings
from splatmend.core.turbo.weights import TurboWeights
from splatmend.plugin.tools import convert

SKIP = "decoder.skip_conv_1"


@pytest.fixture
def weights() -> TurboWeights:
    """A LoRA on one layer of each network, a skip convolution and a conv_in."""
    layer = "mid_block.attentions.0.proj_in"
    return TurboWeights(
        TurboSettings(),
        Lora(4, 8.0, ("proj_in",), {layer: torch.randn(4, 6)}, {layer: torch.randn(5, 4)}),
        Lora(
            2,
            8.0,
            ("skip_conv_1",),
            {SKIP: torch.randn(2, 6, 1, 1)},
            {SKIP: torch.randn(7, 2, 1, 1)},
        ),
        {"conv_in.weight": torch.randn(8, 4, 3, 3)},
        {f"{SKIP}.weight": torch.randn(7, 6, 1, 1)},
    )


@pytest.fixture
def source(weights: TurboWeights, tmp_path: Path) -> Path:
    path = tmp_path / "source.safetensors"
    save_turbo(path, weights)
    return path


def run(*arguments: object) -> None:
    convert.main([str(argument) for argument in arguments])


def assert_same_tensors(one: TurboWeights, other: TurboWeights) -> None:
    for a, b in (
        (one.unet_lora.down, other.unet_lora.down),
        (one.unet_lora.up, other.unet_lora.up),
        (one.vae_lora.down, other.vae_lora.down),
        (one.vae_lora.up, other.vae_lora.up),
        (one.unet_plain, other.unet_plain),
        (one.vae_plain, other.vae_plain),
    ):
        assert a.keys() == b.keys()
        assert all(torch.equal(value, b[name]) for name, value in a.items())


def test_round_the_formats_and_back(source: Path, weights: TurboWeights, tmp_path: Path) -> None:
    pickled, folder, back = tmp_path / "a.pkl", tmp_path / "b", tmp_path / "c.safetensors"
    run(source, pickled)
    run(pickled, folder)
    run(folder, back)
    again = read_turbo(back)
    assert again.settings == weights.settings
    assert_same_tensors(again, weights)
    content = torch.load(pickled, weights_only=True)
    assert content["rank_unet"] == 4
    assert content["vae_lora_target_modules"] == ["skip_conv_1"]
    assert f"{SKIP}.base_layer.weight" in content["state_dict_vae"]
    assert (folder / "unet" / "adapter_config.json").is_file()


def test_options_say_what_the_file_does_not(source: Path, tmp_path: Path) -> None:
    pickled, target = tmp_path / "a.pkl", tmp_path / "b.safetensors"
    run(source, pickled)
    options = ("--timestep", 499, "--input-range", "pm1", "--prompt", "a face", "--alpha", 16)
    run(pickled, target, *options)
    again = read_turbo(target)
    assert again.settings == TurboSettings(timestep=499, input_range="pm1", prompt="a face")
    assert (again.unet_lora.scale, again.vae_lora.scale) == (4.0, 8.0)
    with pytest.raises(InputError, match="timestep must lie between"):
        run(pickled, tmp_path / "c.safetensors", "--timestep", 1000)
    with pytest.raises(InputError, match="alpha must be a number above 0"):
        run(pickled, tmp_path / "c.safetensors", "--alpha", "nan")


def test_views_are_the_users_word(source: Path, tmp_path: Path) -> None:
    ours, folder = tmp_path / "a.safetensors", tmp_path / "b"
    run(source, ours, "--views", "True")
    run(ours, folder)
    assert read_turbo(folder).settings == TurboSettings(views=True)
    with pytest.raises(InputError, match="no views"):
        run(ours, tmp_path / "c.pkl")
    run(ours, tmp_path / "d.safetensors", "--views", "False")
    assert read_turbo(tmp_path / "d.safetensors").settings == TurboSettings()


def test_another_prompt_drops_the_stored_embedding(weights: TurboWeights, tmp_path: Path) -> None:
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    settings = TurboSettings(prompt="a face")
    save_turbo(
        source,
        TurboWeights(settings, weights.unet_lora, prompts=torch.ones(1, 7, 8)),
    )
    run(source, target, "--prompt", "a face")
    assert read_turbo(target).prompts is not None
    run(source, target, "--prompt", "a house", "--overwrite")
    assert read_turbo(target).prompts is None


def test_a_base_embeds_the_prompt(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(folder: Path, words: list[str]) -> torch.Tensor:
        assert folder == tmp_path / "base"
        return torch.tensor([float(len(word)) for word in words])[:, None, None]

    monkeypatch.setattr(
        turbo_base, "find_base", lambda base, *, words: Path(base) if words else None
    )
    monkeypatch.setattr(turbo_base, "encode_prompts", encode)
    target, base = tmp_path / "a.safetensors", ("--base", tmp_path / "base")
    run(source, target, *base, "--prompt", "a face")
    prompts = read_turbo(target).prompts
    assert prompts is not None
    assert prompts.flatten().tolist() == [6]
    settings = TurboSettings(cfg_scale=1.07, prompt="a face\nblur")  # as S3Diff's
    save_turbo(target, TurboWeights(settings))
    run(target, tmp_path / "b.safetensors", *base)
    prompts = read_turbo(tmp_path / "b.safetensors").prompts
    assert prompts is not None
    assert prompts.flatten().tolist() == [6, 4]
    with pytest.raises(InputError, match="--half and --base are for our"):
        run(source, tmp_path / "c.pkl", *base)


def test_one_line_says_what_was_found(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(source, tmp_path / "a.pkl")
    run(tmp_path / "a.pkl", tmp_path / "b.safetensors", "--half")
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith("img2img-turbo -> splatmend: UNet LoRA of rank 4 on 1 layers, scale 2,")
    assert "autoencoder LoRA of rank 2 on 1 layers, scale 4, 1 weights of its own" in line
    assert "timestep 999, input_range '01'" in line
    assert line.endswith(" MB")
    assert read_turbo(tmp_path / "b.safetensors").unet_plain["conv_in.weight"].dtype is (
        torch.float16
    )


def test_the_name_or_the_option_says_the_format(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not say what to write"):
        run(source, tmp_path / "model.bin")
    run(source, tmp_path / "model.bin", "--to", "img2img-turbo")
    assert "rank_unet" in torch.load(tmp_path / "model.bin", weights_only=True)
    with pytest.raises(InputError, match="--half and --base are for our"):
        run(source, tmp_path / "model.pkl", "--half")


@pytest.mark.parametrize("name", ["a.safetensors", "a.pkl", "a"])
def test_nothing_is_replaced_unasked(name: str, source: Path, tmp_path: Path) -> None:
    target = tmp_path / name
    run(source, target)
    before = target.stat().st_ino
    with pytest.raises(InputError, match="exists: give another name, or --overwrite"):
        run(source, target)
    assert target.stat().st_ino == before
    run(source, target, "--overwrite")
    assert target.stat().st_ino != before
    assert {p.name for p in tmp_path.iterdir()} == {source.name, name}


def test_a_folder_of_something_else_is_never_replaced(source: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    for options in ((), ("--to", "img2img-turbo"), ("--to", "splatmend")):
        with pytest.raises(InputError, match="is something else and is not replaced"):
            run(source, precious, "--overwrite", *options)
    assert (precious / "thesis.txt").read_text() == "years of work"


def test_a_source_may_be_its_own_target(
    source: Path, weights: TurboWeights, tmp_path: Path
) -> None:
    target = tmp_path / "a.pkl"
    run(source, target)
    run(target, target, "--overwrite")
    assert_same_tensors(read_turbo(target), weights)
    run(source, source, "--overwrite", "--timestep", 5)
    assert_same_tensors(read_turbo(source), weights)


def test_what_cannot_be_read_or_written_leaves_nothing(source: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pkl"
    broken.write_bytes(b"PK\x03\x04 no archive")
    target = tmp_path / "target.safetensors"
    with pytest.raises(CheckpointError, match="truncated"):
        run(broken, target)
    assert not target.exists()
    (tmp_path / "file").write_text("in the way of a folder")
    for name in ("a.safetensors", "a.pkl", "a"):
        with pytest.raises(InputError, match="cannot be written"):
            run(source, tmp_path / "file" / name)
    with pytest.raises(InputError, match=r"always run timestep 999.*write \.safetensors"):
        run(source, tmp_path / "b.pkl", "--timestep", 199)
    assert not (tmp_path / "b.pkl").exists()
    assert not list(tmp_path.glob("*.part"))
