"""Learning at test time: a model is taught the degradation of one picture, within a budget.

The methods share what makes them safe to use: `anytime` (the loop, the criterion, the rollback),
`budget`, `report`, `delta` (what was learned, as a file) and `pool` (sharp pictures to learn from).
"""

from pysr.adapt.budget import Budget
from pysr.adapt.dsr import DSRConfig, dsr
from pysr.adapt.methods import METHODS, load, taught
from pysr.adapt.onsr import ONSRConfig, onsr
from pysr.adapt.report import Adapted, Check, Report
from pysr.adapt.zssr import ZSSR, ZSSRConfig, ZSSRSizes, zssr

__all__ = [
    "METHODS",
    "ZSSR",
    "Adapted",
    "Budget",
    "Check",
    "DSRConfig",
    "ONSRConfig",
    "Report",
    "ZSSRConfig",
    "ZSSRSizes",
    "dsr",
    "load",
    "onsr",
    "taught",
    "zssr",
]
