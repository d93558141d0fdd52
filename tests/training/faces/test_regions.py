import json
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.data import astronaut

from splatmend.core.errors import CheckpointError, InputError, ModelError
from splatmend.training.faces.align import DlibLandmarker, Landmarks, cut_square, face_square
from splatmend.training.faces.regions import (
    REGIONS,
    LandmarkParser,
    RegionStrengths,
    SegformerParser,
    has_face,
    load_parser,
    strength_map,
)

LABELS = (
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
    "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)  # fmt: skip


def test_the_strengths_are_the_published_ones_and_the_ground_has_the_least() -> None:
    strengths = RegionStrengths()
    published = {"mouth": 0.9, "eyes": 0.7, "hair": 0.6, "nose": 0.5, "skin": 0.4}
    assert {name: getattr(strengths, name) for name in published} == published
    assert 0 < strengths.ground < min(published.values())


def test_a_strength_beyond_its_range_is_refused() -> None:
    with pytest.raises(InputError, match=r"mouth must lie in \[0, 1\], got 1.5"):
        RegionStrengths(mouth=1.5)


def test_a_map_has_each_region_at_its_strength_and_smooth_borders() -> None:
    labels = torch.zeros(2, 128, 128, dtype=torch.uint8)
    labels[0, :, 64:] = REGIONS.index("mouth")
    strengths = strength_map(labels, RegionStrengths(mouth=0.9, ground=0.1))
    assert strengths.shape == (2, 1, 128, 128)
    row = strengths[0, 0, 64]
    assert row[20] == pytest.approx(0.1, abs=1e-4)
    assert row[110] == pytest.approx(0.9, abs=1e-4)
    assert row[63:65].mean() == pytest.approx(0.5, abs=1e-3)
    assert row.diff().min() >= -1e-6
    assert row.diff().max() < 0.2
    assert strengths[1].max() == pytest.approx(0.1)  # one sample's map is not another's
    alone = strength_map(labels[0], RegionStrengths(mouth=0.9, ground=0.1))
    torch.testing.assert_close(alone, strengths[:1])


def test_a_focus_silences_the_other_regions() -> None:
    focused = RegionStrengths().only(("hair",))
    assert focused.hair == 0.6
    assert sum(getattr(focused, name) for name in REGIONS) == 0.6


@pytest.fixture(scope="module")
def find() -> DlibLandmarker:
    pytest.importorskip("dlib")
    return DlibLandmarker()


@pytest.fixture(scope="module")
def portrait(find: DlibLandmarker) -> tuple[np.ndarray, Landmarks]:
    """A real face, aligned, 256 x 256, and its landmarks."""
    found = find(astronaut())
    assert found is not None
    pixels = cut_square(astronaut(), face_square(found), 256)
    points = find(pixels)
    assert points is not None
    return pixels, points


def test_landmarks_give_every_region_its_place(
    find: DlibLandmarker, portrait: tuple[np.ndarray, Landmarks]
) -> None:
    pixels, points = portrait
    regions = LandmarkParser(find)(pixels)
    assert regions.shape == (256, 256)
    assert regions.dtype == np.uint8
    assert has_face(regions)

    def region(x: float, y: float) -> str:
        return REGIONS[regions[round(float(y)), round(float(x))]]

    left_eye, right_eye, mouth = points[36:42].mean(0), points[42:48].mean(0), points[60:68].mean(0)
    up = (left_eye + right_eye) / 2 - mouth
    assert region(*left_eye) == region(*right_eye) == region(*points[19]) == "eyes"
    assert region(*points[30]) == "nose"
    assert region(*mouth) == "mouth"
    assert region(*(points[2] * 0.7 + points[30] * 0.3)) == "skin"
    assert region(*(left_eye + right_eye + 0.7 * up) / 2) == "skin"  # between the brows
    assert region(*((left_eye + right_eye) / 2 + 1.35 * up)) == "hair"
    assert region(4, 4) == "ground"
    area = np.bincount(regions.ravel(), minlength=6) / regions.size
    assert 0.1 < area[REGIONS.index("hair")] < 0.5
    assert area[REGIONS.index("mouth")] < 0.05


def test_regions_follow_the_picture_when_it_is_mirrored(
    find: DlibLandmarker, portrait: tuple[np.ndarray, Landmarks]
) -> None:
    parse, pixels = LandmarkParser(find), portrait[0]
    mirrored = parse(np.ascontiguousarray(pixels[:, ::-1]))[:, ::-1]
    assert (mirrored == parse(pixels)).mean() > 0.85


def test_without_a_face_all_is_ground() -> None:
    regions = LandmarkParser(lambda _: None)(np.full((64, 64, 3), 90, np.uint8))
    assert not regions.any()
    assert not has_face(regions)
    regions[:32] = REGIONS.index("skin")
    assert not has_face(regions)  # skin without features: a hand
    regions[10:14, 10:30] = REGIONS.index("eyes")
    assert has_face(regions)


@pytest.fixture
def segformer(tmp_path: Path) -> Path:
    """A face parser of a few thousand random weights, laid out as the real one."""
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        id2label=dict(enumerate(LABELS)),
        label2id={name: index for index, name in enumerate(LABELS)},
    )
    folder = tmp_path / "parser"
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)
    return folder


def _set_weights(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    for name, value in change.items():
        if value is None:
            del weights[name]
        else:
            weights[name] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("label", "region"),
    [
        ("u_lip", "mouth"),
        ("r_brow", "eyes"),
        ("hat", "hair"),
        ("neck", "skin"),
        ("cloth", "ground"),
    ],
)
def test_labels_become_regions_by_name(
    segformer: Path, face: np.ndarray, label: str, region: str
) -> None:
    """A network made to answer one label everywhere, with its labels in another order."""
    config = json.loads((segformer / "config.json").read_text())
    backwards = {name: len(LABELS) - 1 - index for index, name in enumerate(LABELS)}
    config["label2id"] = backwards
    config["id2label"] = {str(index): name for name, index in backwards.items()}
    (segformer / "config.json").write_text(json.dumps(config))
    answer = torch.zeros(len(LABELS))
    answer[backwards[label]] = 100
    _set_weights(segformer, {"decode_head.classifier.bias": answer})
    regions = load_parser(str(segformer))(face[:200])
    assert regions.shape == (200, 256)
    assert regions.dtype == np.uint8
    assert np.all(regions == REGIONS.index(region))


def test_pictures_are_prepared_as_the_library_does(segformer: Path, face: np.ndarray) -> None:
    from transformers import SegformerForSemanticSegmentation, SegformerImageProcessor

    torch.manual_seed(0)
    head = 5 * torch.randn(len(LABELS), 16, 1, 1)
    _set_weights(segformer, {"decode_head.classifier.weight": head})
    processor = SegformerImageProcessor()
    network = SegformerForSemanticSegmentation.from_pretrained(segformer).eval()
    with torch.no_grad():
        output = network(**processor(images=face, return_tensors="pt"))
    (labels,) = processor.post_process_semantic_segmentation(output, target_sizes=[(256, 256)])
    assert len(labels.unique()) > 2
    ours = SegformerParser(segformer)(face)
    names = [LABELS[index] for index in labels.unique().tolist()]
    kinds = {"skin": "skin", "neck": "skin", "nose": "nose", "hair": "hair", "hat": "hair"}
    for name in set(names) & set(kinds):
        theirs = np.isin(
            labels.numpy(), [LABELS.index(n) for n, k in kinds.items() if k == kinds[name]]
        )
        agreed = theirs & (ours == REGIONS.index(kinds[name]))
        assert agreed.sum() > 0.9 * theirs.sum()


def test_a_folder_that_is_no_face_parser_is_refused(segformer: Path) -> None:
    config = json.loads((segformer / "config.json").read_text())
    config["id2label"]["13"] = "wall"
    (segformer / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="is not a face parser: it lacks the label 'hair'"):
        SegformerParser(segformer)


def test_missing_weights_are_not_made_up(segformer: Path) -> None:
    _set_weights(segformer, {"decode_head.classifier.bias": None})
    with pytest.raises(CheckpointError, match=r"decode_head\.classifier\.bias"):
        SegformerParser(segformer)


@pytest.mark.slow
def test_auto_takes_the_segformer_of_the_hubs_cache_else_landmarks(
    segformer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dlib")
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    assert load_parser("auto").name == load_parser("landmarks").name == "landmarks"
    with pytest.raises(ModelError, match="jonathandinu/face-parsing: download it"):
        load_parser("segformer")
    repository = cache / "models--jonathandinu--face-parsing"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots").mkdir()
    segformer.rename(repository / "snapshots" / "abc")
    assert load_parser("auto").name == load_parser("segformer").name == "segformer"


def test_a_parser_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelError, match="no parser 'sgformer': give auto, segformer, landmarks"):
        load_parser("sgformer")
