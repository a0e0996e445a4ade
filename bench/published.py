"""DAN run as its authors publish it: the code stretched over the image and concatenated in every
block, T full-size iterations, eager float32. What pysr is timed against, and compared with."""

import torch
import torch.nn.functional as F

from pysr.nets import DAN, load_model
from pysr.nets.dan import initialise


def model_of(name: str) -> DAN:
    """A shipped model, or one of the published sizes, of which no weights are shipped: what it
    computes plays no part in how long it takes."""
    if name != "published sizes":
        return load_model(name)
    torch.manual_seed(0)
    model = DAN(basis=torch.rand(441, 10)).eval()
    initialise(model)
    return model


def restorer(model, lr, code):
    stretched = code[:, :, None, None].expand(-1, -1, *lr.shape[-2:])
    part = model.Restorer
    f = part.head(lr)
    for each in part.body:
        f = block(each, f, stretched)
    sr = part.upscale(part.fusion(f))
    return sr if part.skip is None else sr + part.skip(lr)


def block(module, f, cond):
    first, _, second, attention = module.body
    r = second(F.leaky_relu(first(torch.cat((f, cond), 1)), 0.2))
    return r * attention(F.adaptive_avg_pool2d(r, 1)) + f


def loop(model, lr, iterations=None):
    """SR picture (N, 3, s*H, s*W) of the whole alternation."""
    code = model.init_ker_map.expand(len(lr), -1)
    for _ in range(iterations or model.config.iterations):
        sr = restorer(model, lr, code)
        code = model.Estimator(sr, lr)
    return sr
