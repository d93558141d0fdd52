"""When a stream answers from its memory, and when it begins anew."""

import numpy as np

from splatmend.core import Frame, restore_frames

from streams import SIZE, Flickering, alpha_clip, clip, colors, stream, texture


class TestIdle:
    def test_the_same_picture_gets_the_last_answer_without_the_network(self):
        restorer = Flickering()
        one = stream(restorer)
        frames = clip(2)
        same = [Frame(color=frames[1].color.copy(), pts=i) for i in range(2, 9)]
        answers = one.restore([*frames, *same])
        assert restorer.calls == 2
        assert set(colors(answers[1:])) == {answers[1].color.tobytes()}
        assert [f.pts for f in answers] == list(range(9))
        assert answers[2].color is not answers[3].color
        changed = same[0].color.copy()
        changed[5, 5, 1] ^= 1
        one.restore([Frame(color=changed)])
        assert restorer.calls == 3

    def test_every_so_many_frames_it_is_restored_again(self):
        restorer = Flickering()
        stream(restorer, refresh=5).restore(clip(1) * 11)
        assert restorer.calls == 3
        restorer = Flickering()
        stream(restorer, refresh=1).restore(clip(1) * 4)
        assert restorer.calls == 4

    def test_only_what_is_visible_counts(self):
        frame, restorer = alpha_clip(1)[0], Flickering()
        hidden = frame.color.copy()
        hidden[0, -5:] = 77  # far outside the alpha box
        one = stream(restorer)
        first, second = one.restore([frame, frame.with_color(hidden)])
        assert restorer.calls == 1
        visible = frame.alpha > 0
        assert np.array_equal(second.color[visible], first.color[visible])
        assert np.array_equal(second.color[~visible], hidden[~visible])
        alpha = frame.alpha.copy()
        alpha[120, 90] -= 1
        one.restore([Frame(color=frame.color, alpha=alpha)])
        assert restorer.calls == 2

    def test_a_flat_colour_costs_no_memory_of_before(self):
        flat = [Frame(color=np.full((*SIZE, 3), 90, np.uint8))] * 3
        answers = stream(refresh=1).restore(flat)
        assert np.array_equal(answers[0].color, restore_frames(Flickering(), flat[:1])[0].color)


class TestReset:
    def begins_anew(self, before, after, **options):
        """Whether `after` is restored as if it were the first frame."""
        answer = stream(**options).restore([*before, after])[-1]
        return answer.color.tobytes() == stream(**options).restore([after])[0].color.tobytes()

    def test_a_neighbouring_frame_goes_on(self):
        frames = clip(3)
        assert not self.begins_anew(frames[:2], frames[2])

    def test_a_cut(self):
        other = Frame(color=texture(9)[: SIZE[0], : SIZE[1]])
        assert self.begins_anew(clip(3), other)
        assert self.begins_anew(clip(3, motion=False), other)
        still = np.zeros((*SIZE, 2), np.float32)
        assert self.begins_anew(clip(3), Frame(color=other.color, motion=still))

    def test_another_size_dtype_or_alpha(self):
        before, after = clip(2), clip(3)[2]
        small = Frame(color=after.color[:-1].copy())
        deep = Frame(color=after.color.astype(np.uint16) * 257)
        alpha = np.full(SIZE, 255, np.uint8)
        clear = Frame(color=after.color, alpha=alpha)
        premultiplied = Frame(color=after.color, alpha=alpha, alpha_kind="premultiplied")
        for frame in (small, deep, clear):
            assert self.begins_anew(before, frame)
        assert self.begins_anew([clear], premultiplied)
        assert self.begins_anew([clear], after)

    def test_another_stream(self):
        after = clip(3)[2]
        assert self.begins_anew(clip(2), Frame(color=after.color, stream_id="other"))

    def test_a_gap_if_told(self):
        frames = clip(6, motion=False)
        assert not self.begins_anew(frames[:2], frames[3], max_gap=2)
        assert self.begins_anew(frames[:2], frames[3], max_gap=1)
        assert self.begins_anew(frames[:3], frames[1], max_gap=9)
        assert not self.begins_anew(frames[:2], frames[3])
        unknown = Frame(color=frames[2].color)
        assert not self.begins_anew(frames[:2], unknown, max_gap=1)

    def test_explicit(self):
        frames, one = clip(3), stream()
        one.restore(frames[:2])
        one.reset()
        assert colors(one.restore(frames[2:])) == colors(stream().restore(frames[2:]))

    def test_nothing_visible(self):
        frames = alpha_clip(2)
        empty = Frame(color=frames[0].color, alpha=np.zeros_like(frames[0].alpha))
        one = stream()
        answer = one.restore([frames[0], empty])[1]
        assert np.array_equal(answer.color, empty.color)
        assert one.export_state() == {}
