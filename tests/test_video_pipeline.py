"""The pipeline on plain numbers: order, bounds, and what happens when a part fails."""

import threading
import time

import pytest

from pysr.video import pipeline


def numbers(count):
    yield from range(count)


def collect(into):
    return lambda results: into.extend(results)


def test_everything_arrives_once_in_order():
    out = []
    pipeline.run(numbers(100), lambda x: x * x, collect(out))
    assert out == [x * x for x in range(100)]


@pytest.mark.parametrize("slow", ["model", "encode"])
def test_a_slow_part_holds_back_those_before_it(slow):
    taken, done, under_way = [], [], []
    depth = 2

    def source():
        for i in range(100):
            taken.append(i)
            under_way.append(len(taken) - len(done))
            yield i

    def dawdle(part, x):
        if part == slow:
            time.sleep(0.001)
        return x

    def sink(results):
        for x in results:
            done.append(dawdle("encode", x))

    pipeline.run(source(), lambda x: dawdle("model", x), sink, depth)
    # Two queues, and one in each of three hands.
    assert done == taken and max(under_way) <= 2 * depth + 3


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


def test_a_sink_that_returns_early_ends_the_others():
    closed, out = [], []

    def source():
        try:
            yield from range(10**9)
        finally:
            closed.append(True)

    def work():
        pipeline.run(source(), lambda x: x, lambda results: out.append(next(results)))

    run = threading.Thread(target=work, daemon=True)
    run.start()
    run.join(10)
    assert not run.is_alive() and closed and out == [0]


def test_the_times_say_who_waits():
    times = pipeline.run(numbers(20), lambda x: time.sleep(0.005), collect([]))
    assert times.model > times.decode + times.encode
    assert times.elapsed >= times.model
