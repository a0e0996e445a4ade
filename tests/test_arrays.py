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
