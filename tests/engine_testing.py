"""What the tests of the exporting engines share: a network small enough to trace often."""

import torch

from pysr.nets import DAN, DANConfig

# More blocks than are traced, and every branch of the configuration.
SMALL = DANConfig(
    scale=2,
    features=16,
    blocks=4,
    code_length=5,
    estimator_features=16,
    estimator_blocks=3,
    compact_tail=True,
    bicubic_skip=True,
    whitened_estimator=True,
)


def small_dan(seed: int = 0) -> DAN:
    torch.manual_seed(seed)
    return DAN(SMALL, torch.rand(441, 5)).eval()
