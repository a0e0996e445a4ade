"""Networks, and the registry that builds and loads them by name."""

from pysr.nets.dan import DAN, DANConfig, Restoration
from pysr.nets.registry import SHIPPED, ModelError, fingerprint, load_model, save_model

__all__ = [
    "DAN",
    "SHIPPED",
    "DANConfig",
    "ModelError",
    "Restoration",
    "fingerprint",
    "load_model",
    "save_model",
]
