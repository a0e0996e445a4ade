"""Networks, and the registry that builds and loads them by name."""

from pysr.nets.dan import DAN, DANConfig, Restoration
from pysr.nets.edsr import EDSR, EDSRConfig
from pysr.nets.rcan import RCAN, RCANConfig
from pysr.nets.rdn import RDN, RDNConfig
from pysr.nets.registry import (
    ARCHITECTURES,
    DEFAULTS,
    SHIPPED,
    ModelError,
    build,
    default_model,
    fingerprint,
    load_dan,
    load_model,
    load_scout,
    save_model,
)
from pysr.nets.rrdb import RRDB, RRDBConfig
from pysr.nets.vdsr import VDSR, VDSRConfig

__all__ = [
    "EDSR",
    "EDSRConfig",
    "RCAN",
    "RCANConfig",
    "RDN",
    "RDNConfig",
    "ARCHITECTURES",
    "DAN",
    "DEFAULTS",
    "RRDB",
    "SHIPPED",
    "VDSR",
    "DANConfig",
    "ModelError",
    "RRDBConfig",
    "Restoration",
    "VDSRConfig",
    "build",
    "default_model",
    "fingerprint",
    "load_dan",
    "load_model",
    "load_scout",
    "save_model",
]
