"""SD-Turbo's weights: where they are looked for, what is refused how, the words' encoding."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel
from transformers.utils import logging

from splatmend.core import CheckpointError, ModelError
from splatmend.core.turbo import base
from splatmend.core.turbo.base import encode_prompts, find_base, load_base

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache and no variable, whatever this machine has."""
    monkeypatch.delenv(base.BASE_VARIABLE, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture
def folder(tiny_base: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def fill_cache(cache: Path, source: Path) -> Path:
    repository = cache / "models--stabilityai--sd-turbo"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc123")
    return Path(shutil.copytree(source, repository / "snapshots" / "abc123"))


def test_given_named_or_cached(
    folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    cached = fill_cache(cache, folder)
    assert find_base() == cached
    assert find_base("download") == cached  # nothing to do
    monkeypatch.setenv(base.BASE_VARIABLE, str(other))
    assert find_base() == other
    assert find_base(folder) == folder


def test_nowhere_is_one_line_with_the_ways_out() -> None:
    with pytest.raises(ModelError) as raised:
        find_base()
    message = str(raised.value)
    assert "\n" not in message
    for way in ("folder as the base", "SPLATMEND_SD_TURBO", "'download'", "compact"):
        assert way in message


def test_a_folder_that_is_none(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"empty is not a folder of SD-Turbo.* no unet/"):
        find_base(tmp_path / "empty")
    with pytest.raises(ModelError, match="no tokenizer/"):
        find_base(folder, words=True)
    monkeypatch.setenv(base.BASE_VARIABLE, str(tmp_path / "gone"))
    with pytest.raises(ModelError, match="gone is not a folder"):
        find_base()


def test_a_download_that_was_cut_off_is_not_taken_for_the_base(folder: Path, cache: Path) -> None:
    cached = fill_cache(cache, folder)
    (cached / UNET_FILE).unlink()
    with pytest.raises(ModelError, match="not in the hub's cache"):
        find_base()


def test_a_download_names_the_licence_and_takes_only_what_is_needed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, list[str]] = {}

    def hub(_: str, allow_patterns: list[str]) -> str:
        asked["patterns"] = allow_patterns
        return str(folder)

    monkeypatch.setattr(base, "snapshot_download", hub)
    assert find_base("download") == folder
    assert "Stability AI Community License" in capsys.readouterr().err
    weights = [pattern for pattern in asked["patterns"] if "safetensors" in pattern]
    assert weights == ["unet/*.fp16.safetensors", "vae/*.fp16.safetensors"]
    assert not any("text_encoder" in pattern for pattern in asked["patterns"])


def test_offline_a_download_fails_in_one_line() -> None:
    with pytest.raises(ModelError, match=r"could not be downloaded.*compact") as raised:
        find_base("download")
    assert "\n" not in str(raised.value)


def test_half_precision_is_read_where_there_is_nothing_finer(folder: Path) -> None:
    whole, _ = load_base(folder)
    path = folder / UNET_FILE
    halves = {name: value.half() for name, value in load_file(path).items()}
    save_file(halves, path.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
    assert torch.equal(load_base(folder)[0].conv_in.weight, whole.conv_in.weight)
    path.unlink()
    rounded, vae = load_base(folder, torch.bfloat16)
    assert torch.equal(rounded.conv_in.weight, whole.conv_in.weight.half().bfloat16())
    assert vae.dtype == torch.bfloat16


def test_damaged_and_incomplete_folders(folder: Path) -> None:
    path = folder / UNET_FILE
    whole = path.read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="unet cannot be read"):
            load_base(folder)
    path.write_bytes(whole)
    weights = load_file(path)
    lost = {name: value for name, value in weights.items() if name != "conv_out.weight"}
    save_file(lost, path, metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"1 weights are missing, among them conv_out\.weight"
    ):
        load_base(folder)
    save_file(weights | {"conv_out.weight": torch.zeros(3)}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="expected shape"):
        load_base(folder)
    path.rename(path.with_name("diffusion_pytorch_model.bin"))
    with pytest.raises(CheckpointError, match="pickles are not read"):
        load_base(folder)


@pytest.mark.parametrize("text", ["{", "[]", "{}", None])
def test_damaged_configurations(folder: Path, text: str | None) -> None:
    path = folder / "vae" / "config.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(CheckpointError, match="vae"):
        load_base(folder)


def test_words_become_what_the_unet_attends_to(base_with_words: Path) -> None:
    folder = base_with_words
    assert find_base(folder, words=True) == folder
    encoded = encode_prompts(folder, ["c a", "b", ""])
    assert encoded.shape == (3, 77, 16)
    assert encoded.dtype == torch.float32
    assert torch.equal(encode_prompts(folder, ["b"])[0], encoded[1])
    assert encode_prompts(folder, ["a b c " * 99]).shape == (1, 77, 16)  # truncated
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    tokens = torch.tensor([[4, 3, 1, 5] + [0] * 73])
    torch.testing.assert_close(encoded[:1], encoder(tokens)[0])
    torch.nn.Linear(16, 1)(encoded).sum().backward()  # usable in training too


def test_no_text_encoder_is_one_clear_line(folder: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"no tokenizer/, and the checkpoint stores no prompt"
    ):
        encode_prompts(folder, [""])


def test_libraries_keep_their_verbosity(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logging.set_verbosity_info()
    try:
        load_base(folder)
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity_warning()
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
