"""Pictures as users hold them, taken apart and put together again."""

import numpy as np
import pytest

from pysr import arrays


@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_a_field_of_a_packed_array_is_a_picture(dtype):
    """Its pixels lie 7 or 13 bytes apart, which no torch tensor can say."""
    records = np.zeros((4, 5), [("rgb", dtype, 3), ("flag", "u1")])
    records["rgb"] = np.arange(60).reshape(4, 5, 3) / (1 if dtype == "u2" else 60)
    picture = records["rgb"]
    unpacked = arrays.unpack(picture)
    expected = arrays.unpack(np.ascontiguousarray(picture)).rgb
    np.testing.assert_array_equal(unpacked.rgb, expected)


def test_an_array_that_tells_no_strides_may_run_backwards():
    """torch aborts the process at such strides."""

    class Backwards:
        def __init__(self, values):
            self.values = values

        def __dlpack__(self, **options):
            return self.values.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.values.__dlpack_device__()

        def __array_namespace__(self):
            return np

    picture = np.arange(60, dtype="u1").reshape(4, 5, 3)
    unpacked = arrays.unpack(Backwards(picture[::-1]))
    np.testing.assert_array_equal(unpacked.rgb, arrays.unpack(picture[::-1].copy()).rgb)
    assert isinstance(unpacked.like(unpacked.rgb), np.ndarray)
