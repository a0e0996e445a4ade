import pytest

from pysr.video.segments import plan


@pytest.mark.parametrize("length", [1, 2, 7, 128])
@pytest.mark.parametrize("frames", [1, 2, 100, 1001])
@pytest.mark.parametrize("every", [1, 12, 100, 5000])
def test_a_plan_covers_every_frame_once_in_pieces_of_about_the_length(frames, every, length):
    keys = range(0, frames, every)
    segments = plan(frames, keys, length)
    assert [i for s in segments for i in range(s.first, s.stop)] == list(range(frames))
    assert [s.index for s in segments] == list(range(len(segments)))
    assert all(length // 2 <= len(s) <= 1.5 * length for s in segments[:-1])


def test_segments_begin_at_key_frames_where_there_are_some():
    keys = [0, 95, 130, 247, 400]
    assert [s.first for s in plan(500, keys, 120)] == [0, 130, 247, 400]
    assert [s.first for s in plan(500, [0], 200)] == [0, 200]


def test_no_length_is_refused():
    with pytest.raises(ValueError, match="at least 1 frame"):
        plan(10, [0], 0)
