"""Damaged, lying and hostile files: each is refused in one line, and nothing in it is executed."""

import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from splatmend.core import CheckpointError, CheckpointHeader, save_checkpoint
from splatmend.core.checkpoint import load_checkpoint
from splatmend.core.turbo.files import read_turbo, save_turbo

Content = dict[str, Any]


def is_one_line(error: CheckpointError, path: Path) -> bool:
    return str(path) in str(error) and "\n" not in str(error) and len(str(error)) < 600


class Bomb:
    """Creates the file that tells that it was executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("form", ["archive", "beside the rest", "bare", "renamed"])
def test_a_hostile_pickle_executes_nothing(
    form: str, content: Callable[[str], Content], tmp_path: Path
) -> None:
    bomb, path = Bomb(tmp_path / "exploded"), tmp_path / "model.pkl"
    match form:
        case "archive":
            torch.save(bomb, path)
        case "beside the rest":
            torch.save({**content("img2img_turbo"), "optimizer": bomb}, path)
        case "bare":
            path.write_bytes(pickle.dumps(bomb))
        case "renamed":
            path = path.with_suffix(".safetensors")
            torch.save(bomb, path)
    with pytest.raises(CheckpointError, match=r"could run a program: refused") as caught:
        read_turbo(path)
    assert is_one_line(caught.value, path)
    assert not (tmp_path / "exploded").exists()
    with path.open("rb") as file:
        pickle.load(file) if form == "bare" else torch.load(file, weights_only=False)
    assert (tmp_path / "exploded").exists()  # the bomb is a real one


def test_truncated_and_empty_archives_are_refused(upstream: Callable[[str], Path]) -> None:
    path = upstream("img2img_turbo")
    whole = path.read_bytes()
    for length in (0, 3, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"truncated|another format") as caught:
            read_turbo(path)
        assert is_one_line(caught.value, path)
    path.write_bytes(whole[:-200] + bytes(100) + whole[-100:])  # damaged inside its directory
    with pytest.raises(CheckpointError):
        read_turbo(path)


def test_archives_that_unpack_to_more_are_refused(
    upstream: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "bomb.pkl"
    with (
        zipfile.ZipFile(upstream("img2img_turbo")) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in source.namelist():
            packed.writestr(name, source.read(name))
        packed.writestr("archive/data/9999", bytes(20_000_000))
    assert path.stat().st_size < 1_000_000
    with pytest.raises(CheckpointError, match="never packs") as caught:
        read_turbo(path)
    assert is_one_line(caught.value, path)
    with zipfile.ZipFile(path, "w") as other:
        other.writestr("photo.txt", "hello")
    with pytest.raises(CheckpointError, match=r"not one of torch\.save"):
        read_turbo(path)


WRONG: dict[str, Callable[[Content], object]] = {
    "rank_unet must be an integer": lambda c: c.update(rank_unet="4"),
    "rank_vae must be an integer": lambda c: c.update(rank_vae=True),
    "not the two halves of a rank of 8": lambda c: c.update(rank_unet=8),
    "unet_lora_target_modules must be": lambda c: c.update(unet_lora_target_modules={"a": 1}),
    "'state_dict_vae' is missing": lambda c: c.pop("state_dict_vae"),
    "state_dict_unet must be a state dict": lambda c: c.update(state_dict_unet=[1]),
    "must map names to tensors": lambda c: c["state_dict_unet"].update(x=1),
    "must map names": lambda c: c["state_dict_unet"].update({"a\n\x1b[2J": torch.ones(1)}),
    "must be a dense floating tensor": lambda c: c["state_dict_unet"].update(
        {"conv_in.weight": torch.ones(4, 4, 3, 3, dtype=torch.int64)}
    ),
    "dense floating": lambda c: c["state_dict_vae"].update(x=torch.eye(3).to_sparse()),
    "lacks the data that its shape claims": lambda c: c["state_dict_unet"].update(
        {"conv_in.weight": torch.ones(1).expand(10**6, 10**6)}
    ),
    "not the two halves": lambda c: c["state_dict_unet"].update(
        {"conv_out.lora_A.default.weight": torch.ones(4)}
    ),
    r"got torch.float32 \(\)": lambda c: c["state_dict_unet"].update(
        {"conv_out.lora_A.default.weight": torch.tensor(1.0)}
    ),
    "only one of its two halves": lambda c: c["state_dict_unet"].pop(
        "conv_out.lora_B.default.weight"
    ),
    "does not belong to adapter": lambda c: c["state_dict_vae"].update(
        {"encoder.conv_in.lora_A.other.weight": torch.ones(2, 2)}
    ),
    "CycleGAN-turbo": lambda c: c.update(sd_encoder={}),
    "not a checkpoint of img2img-turbo": lambda c: (c.pop("rank_unet"), c.pop("rank_vae")),
}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.parametrize("message", WRONG)
def test_what_is_wrong_inside_is_named(
    message: str, content: Callable[[str], Content], tmp_path: Path
) -> None:
    values, path = content("img2img_turbo"), tmp_path / "wrong.pkl"
    WRONG[message](values)
    torch.save(values, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_turbo(path)
    assert is_one_line(caught.value, path)


def test_what_is_wrong_with_s3diffs_guidance_is_named(
    content: Callable[[str], Content], tmp_path: Path
) -> None:
    path = tmp_path / "wrong.pkl"
    values = content("s3diff")
    values["state_embeddings"] = None
    torch.save(values, path)
    with pytest.raises(CheckpointError, match="state_dict_vae_block must be a state dict"):
        read_turbo(path)
    values = content("s3diff")
    values["state_dict_unet_fuse_mlp"]["weight"] = torch.ones(9, 320)
    torch.save(values, path)
    with pytest.raises(CheckpointError, match="guidance does not fit") as caught:
        read_turbo(path)
    assert is_one_line(caught.value, path)
    values.update(rank_unet=10**9)
    torch.save(values, path)
    with pytest.raises(CheckpointError, match="not the two halves of a rank of 1000000000"):
        read_turbo(path)


def test_pickles_of_other_things_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pkl"
    for value in ([1, 2], torch.ones(3), {}, {"weight": torch.ones(2)}, {1: 2}):
        torch.save(value, path)
        with pytest.raises(CheckpointError) as caught:
            read_turbo(path)
        assert is_one_line(caught.value, path)


LYING: dict[str, Callable[[dict[str, Any], dict[str, Tensor]], object]] = {
    "rank must be an integer": lambda c, _: c["unet_lora"].update(rank="4"),
    "not the two halves of a rank of 9": lambda c, _: c["unet_lora"].update(rank=9),
    "alpha must be a finite number": lambda c, _: c["vae_lora"].update(alpha=float("nan")),
    "targets must be": lambda c, _: c["vae_lora"].update(targets=[1]),
    "'unet_lora' is missing": lambda c, _: c.pop("unet_lora"),
    "unet_lora must be an object": lambda c, _: c.update(unet_lora=[4, 8]),
    "timestep must lie": lambda c, _: c["settings"].update(timestep=1000),
    "timestep must be int": lambda c, _: c["settings"].update(timestep="999"),
    "gamma must be a finite number": lambda c, _: c["settings"].update(gamma="1"),
    "no setting is called 'speed'": lambda c, _: c["settings"].update(speed=2),
    "settings must be an object": lambda c, _: c.update(settings=None),
    "disagree about guidance": lambda c, _: c.update(guidance=True),
    "only one of its two halves": lambda _, t: t.pop("unet_lora.up.conv_out"),
    "neither down nor up": lambda _, t: t.update({"unet_lora.left.x": torch.ones(4, 4)}),
    "no part of turbo": lambda _, t: t.update(extra=torch.ones(1)),
    "prompts must be": lambda _, t: t.update(prompts=torch.ones(3, 4)),
    "guidance does not fit": lambda c, t: (
        c.update(guidance=True),
        t.update({"guidance.w": torch.ones(64)}),
    ),
    "dense floating": lambda _, t: t.update(
        {"unet_lora.up.conv_out": torch.ones(4, 4, 1, 1, dtype=torch.int32)}
    ),
}


@pytest.mark.parametrize("message", LYING)
def test_a_header_that_lies_is_refused(
    message: str, upstream: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "ours.safetensors"
    save_turbo(path, read_turbo(upstream("img2img_turbo")))
    header, tensors = load_checkpoint(path)
    config = dict(header.config)
    LYING[message](config, tensors)
    save_checkpoint(path, CheckpointHeader("turbo", config), tensors)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_turbo(path)
    assert is_one_line(caught.value, path)


def test_foreign_and_truncated_safetensors_are_refused(
    upstream: Callable[[str], Path], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="is a 'compact' checkpoint"):
        read_turbo(tiny_checkpoint)
    path = tmp_path / "ours.safetensors"
    save_turbo(path, read_turbo(upstream("img2img_turbo")))
    whole = path.read_bytes()
    huge = struct.pack("<Q", 1 << 62) + whole[8:]  # a header larger than the file
    for damaged in (b"", whole[:5], whole[:200], whole[:-1], huge):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError) as caught:
            read_turbo(path)
        assert is_one_line(caught.value, path)
