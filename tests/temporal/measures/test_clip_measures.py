"""Faults are put into a clip on purpose: each must move its own measure and spare the others."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from skimage.data import astronaut
from torch import Tensor
from torch.nn import functional as F

from splatmend.core import InputError
from splatmend.temporal.measures.accumulators import DriftMeter, LagMeter, seam_step
from splatmend.temporal.measures.clip_measures import ClipMeasures, MeasureOptions, TemporalMeasures
from splatmend.temporal.motion.flow import DisFlow

FRAMES, SIDE = 24, 96
Clip = list[Tensor]


class Pyramid:
    """A perceptual distance that needs no weights."""

    def features(self, rgb: Tensor) -> list[Tensor]:
        return [F.avg_pool2d(rgb, side) for side in (1, 2, 4)]

    def distance(self, ours: list[Tensor], target: list[Tensor]) -> Tensor:
        pairs = zip(ours, target, strict=True)
        return sum(((a - b).square().mean((1, 2, 3)) for a, b in pairs), torch.zeros(1))


def photo(rows: slice, columns: slice) -> Tensor:
    area = np.ascontiguousarray(astronaut()[rows, columns])
    return torch.from_numpy(area).permute(2, 0, 1).float() / 255


@pytest.fixture(scope="module")
def reference() -> Clip:
    """A face that goes one pixel a frame to the right, before a ground that stands still."""
    ground, face = photo(np.s_[300:396], np.s_[20:116]), photo(np.s_[90:154], np.s_[210:258])
    clip = []
    for t in range(FRAMES):
        frame = ground.clone()
        frame[:, 20:84, 14 + t : 62 + t] = face
        clip.append(frame)
    return clip


def soften(frame: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(frame[None], (1, 1, 1, 1), "replicate"), 3, 1)[0]


def sound(clip: Clip) -> Clip:
    """A decent restorer's output: a little softer than the truth, as steady."""
    return [0.6 * frame + 0.4 * soften(frame) for frame in clip]


def flickering(clip: Clip) -> Clip:
    generator = torch.Generator().manual_seed(0)
    patches = [torch.randn(3, 12, 12, generator=generator) for _ in clip]
    grown = [p.repeat_interleave(8, 1).repeat_interleave(8, 2) for p in patches]
    return [(frame + 0.02 * p).clamp(0, 1) for frame, p in zip(clip, grown, strict=True)]


FAULTS: dict[str, Callable[[Clip], Clip]] = {
    "none": lambda clip: clip,
    "flicker": flickering,
    "drift": lambda clip: [(frame + 0.002 * t).clamp(0, 1) for t, frame in enumerate(clip)],
    "frozen": lambda clip: [*clip[:12], clip[11], *clip[13:]],
    "ghost": lambda clip: [0.65 * f + 0.35 * clip[max(t - 1, 0)] for t, f in enumerate(clip)],
    "wrong": lambda clip: [*clip[:14], clip[3], *clip[15:]],
    "late": lambda clip: [clip[0], *clip[:-1]],
    "early": lambda clip: [*clip[1:], clip[-1]],
    "seam": lambda clip: [f + 0.02 * (t >= 17) for t, f in enumerate(clip)],
    "blur": lambda clip: [soften(soften(frame)) for frame in clip],
}


@pytest.fixture(scope="module")
def measured(reference: Clip) -> dict[str, ClipMeasures]:
    clips = {name: fault(sound(reference)) for name, fault in FAULTS.items()}
    clips["reference"] = reference
    meter = TemporalMeasures(
        list(clips),
        flow=DisFlow(),
        guide="reference",
        truth=True,
        perceptual=Pyramid(),
        options=MeasureOptions(strides=(1, 5), seams=(17,)),
    )
    for t in range(FRAMES):
        meter.add({name: clip[t] for name, clip in clips.items()})
    return meter.result()


def change(measured: dict[str, ClipMeasures], fault: str, figure: str) -> float:
    """How many times the figure of the clip without a fault."""
    return measured[fault].figures[figure] / measured["none"].figures[figure]


def test_flicker_is_warping_error_and_nothing_else(measured: dict[str, ClipMeasures]) -> None:
    figures = measured["flicker"].figures
    assert change(measured, "flicker", "warping_error_relative") > 8
    # white from frame to frame, so that its standard deviation is what was put in
    assert figures["flicker"] == pytest.approx(0.02 * 255, rel=0.1)
    assert measured["none"].figures["flicker"] < 0.02
    assert figures["lag"] == 0
    assert abs(figures["delay"]) < 0.03
    assert figures["seam"] == pytest.approx(1, abs=0.3)


def test_drift_is_seen_though_no_step_shows_it(measured: dict[str, ClipMeasures]) -> None:
    figures = measured["drift"].figures
    assert figures["color_drift"] == pytest.approx(0.002 * 255 * 23, rel=0.05)
    assert measured["none"].figures["color_drift"] < 0.5
    assert change(measured, "drift", "warping_error") < 1.5
    assert figures["flicker"] < 0.5
    assert figures["lag"] == 0
    offsets = measured["drift"].series["color_offset"]
    assert offsets[-1] - offsets[0] == pytest.approx(0.002 * 255 * 23, rel=0.05)


def test_a_frozen_frame_moves_the_optical_flow(measured: dict[str, ClipMeasures]) -> None:
    series = measured["frozen"].series["tof_1"]
    usual = np.median([v for v in series if v is not None])
    assert series[12] > 5 * usual  # the face stands still
    assert series[13] > 5 * usual  # and makes up for it
    sound = measured["none"].series["tof_1"]
    assert [t for t in range(FRAMES) if series[t] != sound[t]] == [12, 13]
    assert measured["frozen"].figures["worst_frame"] in (12, 13)
    assert measured["frozen"].figures["lag"] == 0
    assert change(measured, "frozen", "color_drift") < 1.5


def test_ghosting_is_a_delay_of_its_share(measured: dict[str, ClipMeasures]) -> None:
    figures = measured["ghost"].figures
    assert figures["delay"] == pytest.approx(0.35, abs=0.06)
    assert abs(measured["none"].figures["delay"]) < 0.02
    assert abs(measured["blur"].figures["delay"]) < 0.05  # soft, not late
    assert figures["lag"] == 0
    # which is why it needs a measure of its own: nothing else notices
    assert change(measured, "ghost", "warping_error") < 1.1
    assert figures["flicker"] < 0.05


def test_one_wrong_frame_is_named(measured: dict[str, ClipMeasures]) -> None:
    figures = measured["wrong"].figures
    assert figures["worst_frame"] in (14, 15)
    assert figures["worst"] > 10 * measured["none"].figures["worst"]
    series = [v for v in measured["wrong"].series["warping_error_relative"] if v is not None]
    assert np.median(series) < 1.2 * measured["none"].figures["warping_error_relative"]
    assert measured["wrong"].series["tlpips_1"][14] > 5 * measured["none"].figures["tlpips_1"]
    assert figures["lag"] == 0
    assert figures["delay"] < 0.15


@pytest.mark.parametrize(("fault", "frames"), [("late", 1), ("early", -1)])
def test_lag_is_counted_in_frames(
    measured: dict[str, ClipMeasures], fault: str, frames: int
) -> None:
    figures = measured[fault].figures
    assert figures["lag"] == frames
    assert figures["delay"] == pytest.approx(frames, abs=0.2)
    assert change(measured, fault, "warping_error") < 1.2
    assert figures["flicker"] < 0.05


def test_a_seam_shows_at_its_own_frame_only(measured: dict[str, ClipMeasures]) -> None:
    assert measured["seam"].figures["seam"] > 6
    others = [m.figures.get("seam", 0) for name, m in measured.items() if name != "seam"]
    assert max(others) < 1.5


def test_blur_is_rewarded_by_warping_error_alone(measured: dict[str, ClipMeasures]) -> None:
    assert measured["blur"].figures["warping_error_ratio"] < 0.7
    assert change(measured, "blur", "warping_error_relative") > 1
    assert change(measured, "blur", "lpips") > 3
    assert measured["blur"].figures["psnr"] < measured["none"].figures["psnr"] - 3


def test_the_reference_itself(measured: dict[str, ClipMeasures]) -> None:
    assert set(measured["reference"].figures) == {"warping_error", "flicker"}
    assert measured["reference"].figures["flicker"] == 0


def test_every_series_has_a_value_or_none_for_each_frame(
    measured: dict[str, ClipMeasures],
) -> None:
    for name, measures in measured.items():
        assert {len(values) for values in measures.series.values()} == {FRAMES}, name
    series = measured["none"].series
    assert [t for t, v in enumerate(series["tof_5"]) if v is None] == [0, 1, 2, 3, 4]
    assert series["psnr"][0] is not None


def meter(**options: object) -> TemporalMeasures:
    arguments: dict = {"flow": DisFlow(), "options": MeasureOptions(strides=(1,))}
    return TemporalMeasures(["a", "b"], **(arguments | options))


def run(meter: TemporalMeasures, a: Clip, b: Clip) -> dict[str, ClipMeasures]:
    for first, second in zip(a, b, strict=True):
        meter.add({"a": first, "b": second})
    return meter.result()


def test_the_input_can_be_the_guide(reference: Clip) -> None:
    result = run(meter(guide="b"), sound(reference)[:6], reference[:6])
    figures = result["a"].figures
    assert {"warping_error_ratio", "tof_1", "lag", "color_drift"} <= figures.keys()
    assert "psnr" not in figures  # the input is no truth


def test_without_a_guide_each_clip_goes_by_its_own_motion(reference: Clip) -> None:
    result = run(meter(), reference[:6], flickering(reference)[:6])
    assert set(result["a"].figures) == {"warping_error", "worst", "worst_frame"}
    assert result["b"].figures["warping_error"] > 3 * result["a"].figures["warping_error"]


def test_exact_motion_takes_the_place_of_the_estimate() -> None:
    clip = [torch.rand(3, 96, 96)]  # noise, whose motion no estimator finds
    clip += [clip[0].roll(8 * t, 2) for t in range(1, 4)]
    flow = torch.zeros(2, 96, 96)
    flow[0] = -8
    known, estimated = meter(guide="b"), meter(guide="b")
    for frame in clip:
        known.add({"a": frame, "b": frame}, flow=flow)
        estimated.add({"a": frame, "b": frame})
    errors = [m.result()["b"].figures.get("warping_error") for m in (known, estimated)]
    assert errors[0] < 1e-4
    assert errors[1] > 0.01


def test_what_exact_motion_uncovers_does_not_count(reference: Clip) -> None:
    frames = [f.clone() for f in reference[:3]]
    frames[1][:, 40:60, 10:30] = 1
    result = meter(guide="b")
    for frame in frames:
        result.add({"a": frame, "b": frame}, flow=torch.zeros(2, SIDE, SIDE))
    assert max(v for v in result.result()["b"].series["warping_error"] if v) < 0.05


def test_frames_beyond_the_longest_stride_are_forgotten(reference: Clip) -> None:
    limited = meter(guide="b", options=MeasureOptions(strides=(1, 2), lag_reach=1))
    run(limited, sound(reference)[:9], reference[:9])
    kept = [len(clip.past) for clip in limited._clips.values()]
    assert kept == [3, 3]


def test_clips_that_do_not_fit_are_named(reference: Clip) -> None:
    frame = reference[0]
    with pytest.raises(InputError, match=r"frame 0 must have a, b"):
        meter().add({"a": frame})
    with pytest.raises(InputError, match=r"of one size, got a \(3, 96, 96\), b \(3, 96, 90\)"):
        meter().add({"a": frame, "b": frame[..., :90]})
    with pytest.raises(InputError, match="guide must be one of a, b"):
        meter(guide="c")
    with pytest.raises(InputError, match="at least 1"):
        MeasureOptions(strides=(0, 1))


def test_lag_in_a_clip_where_nothing_moves_is_not_told() -> None:
    lag = LagMeter(2)
    still = torch.rand(3, 16, 16)
    for _ in range(6):
        lag.add(still + 0.1, still)
    assert lag.offset is None
    assert lag.delay is None


@pytest.mark.parametrize("frames", [3, -2])
def test_lag_beyond_one_frame(reference: Clip, frames: int) -> None:
    lag = LagMeter(4)
    for t in range(4, 20):
        lag.add(reference[t - frames], reference[t])
    assert lag.offset == frames


def test_drift_of_a_tint_that_the_mean_hides() -> None:
    drift = DriftMeter()
    tint = torch.zeros(3, 32, 32)
    tint[0, :, :16], tint[0, :, 16:] = 0.001, -0.001
    offsets = [drift.add(0.5 + t * tint, torch.full((3, 32, 32), 0.5)) for t in range(20)]
    assert max(abs(o) for o in offsets) < 1e-3
    assert drift.over_clip == pytest.approx(0.001 * 19 * 255 / 3**0.5, rel=1e-3)


def test_seams_at_the_rim_and_in_still_clips() -> None:
    errors = [None, *[0.01] * 9, 0.03, *[0.01] * 9]
    assert seam_step(errors, [10]) == pytest.approx(3, rel=0.05)
    assert seam_step(errors, [9]) == pytest.approx(1)
    assert seam_step(errors, [0, 40]) == 0
    assert seam_step([None, *[0.0] * 9], [4]) == 1
