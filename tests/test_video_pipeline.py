"""The pipeline on plain numbers: order, bounds, and what happens when a part fails."""

import threading

import pytest

from pysr.video import pipeline


def collect(into):
    return lambda results: into.extend(results)


def test_everything_arrives_once_in_order():
    out = []
    pipeline.run(range(100), lambda x: x * x, collect(out))
    assert out == [x * x for x in range(100)]


@pytest.mark.parametrize("blocked", ["model", "encode"])
def test_a_slow_part_holds_back_those_before_it(blocked):
    """The part waits until no other thread can go on; what is under way then is bounded."""
    taken, depth = [], 2
    stuck = threading.Event()

    def source():
        for i in range(100):
            taken.append(i)
            if len(taken) > 3 * depth + 6:
                stuck.set()
            yield i

    def wait(x):
        if x == 0:
            stuck.wait(0.2)
            assert not stuck.is_set()
        return x

    def sink(results):
        for x in results:
            if blocked == "encode":
                wait(x)

    pipeline.run(source(), wait if blocked == "model" else lambda x: x, sink, depth)
    assert len(taken) == 100


@pytest.mark.parametrize("broken", ["decode", "model", "encode"])
def test_an_error_anywhere_stops_everything_and_is_raised_once(broken):
    left = []

    def fail_at(part, x):
        if part == broken and x == 5:
            raise ZeroDivisionError(part)
        return x

    def source():
        try:
            for i in range(10**9):
                yield fail_at("decode", i)
        finally:
            left.append("decode")

    def sink(results):
        try:
            for x in results:
                fail_at("encode", x)
        finally:
            left.append("encode")

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError, match=broken):
        pipeline.run(source(), lambda x: fail_at("model", x), sink)
    assert threading.active_count() == before
    assert sorted(left) == ["decode", "encode"]


def test_the_times_say_who_waits():
    waiting = threading.Event()
    times = pipeline.run(range(20), lambda x: waiting.wait(0.005), collect([]))
    assert times.model > times.decode + times.encode
    assert times.elapsed >= times.model
