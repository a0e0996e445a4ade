"""The methods by name, for whoever is told one: the command line, and files of differences."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from pysr.adapt import delta
from pysr.adapt.budget import Budget
from pysr.adapt.dsr import dsr, dsr_form
from pysr.adapt.onsr import onsr
from pysr.adapt.picture import estimated_kernel, knows_blur, one_picture, student
from pysr.adapt.pool import LEAVES
from pysr.adapt.report import Adapted, Report
from pysr.adapt.zssr import ZSSR, ZSSRSizes, finished_zssr, zssr
from pysr.degrade import LearnedDegradation
from pysr.nets import ModelError, fingerprint, load_model
from pysr.upscaler import Upscaler, usable_device


@dataclass(frozen=True)
class Method:
    """A way to learn at test time.

    Attributes:
        summary: for the command line.
        teach: takes a model, a picture, and by name what `taught` has.
        external: it learns from a pool of sharp pictures too, and so from any degradation of them.
        plain: what is learned is a plain network, whatever the model: torch runs it, in float32.
        form: makes of the base what learning began with, given the report and the settings that
            `Adapted.save` wrote.
        base: makes that base of the settings, where it is the method's own and not the model.
    """

    summary: str
    teach: Callable[..., Adapted]
    external: bool = False
    plain: bool = False
    form: Callable[[nn.Module, Report, dict], nn.Module] = lambda base, *_: copy.deepcopy(base)
    base: Callable[[dict], nn.Module] | None = None


def _zssr(model: nn.Module | str | Path, image, *, kernel, device: str, **options) -> Adapted:
    """Of the model it takes the scale, and the blur that it or a shipped DAN finds, if any does."""
    model = student(model)
    if kernel is None and knows_blur(model):
        found = usable_device(device)
        kernel = estimated_kernel(one_picture(image, found), model)
    return zssr(image, model.config.scale, kernel=kernel, device=device, **options)


def _zssr_form(base: nn.Module, report: Report, settings: dict) -> nn.Module:
    around = {name: value for name, value in settings.items() if name not in ("sizes", "seed")}
    return finished_zssr(base, report.kernel, **around)


def _zssr_base(settings: dict) -> ZSSR:
    return ZSSR(ZSSRSizes(**settings["sizes"]), settings["seed"])


METHODS = {
    "onsr": Method("learns blur and network together, with sharp pictures", onsr, external=True),
    "dsr": Method(
        "undoes the blur first, then learns the picture from itself",
        dsr,
        plain=True,
        form=dsr_form,
    ),
    "zssr": Method(
        "learns a small network from the picture alone",
        _zssr,
        plain=True,
        form=_zssr_form,
        base=_zssr_base,
    ),
}


def taught(
    method: str,
    model: nn.Module,
    image,
    *,
    budget: Budget | int | float | str,
    hr_pool: str | Path | None = None,
    kernel=None,
    degradation: LearnedDegradation | str | Path | None = None,
    noise: float | None = None,
    device: str = "auto",
    seed: int = 0,
) -> Adapted:
    """Teach a model one picture by the method of that name; arguments as of `onsr`.

    `hr_pool` None is what the method has by itself. Raises ValueError for an unknown method, for a
    pool or a degradation that the method has no use for, and as the method does.
    """
    entry = check_method(method, hr_pool, degradation)
    options = {"budget": budget, "kernel": kernel, "noise": noise, "device": device, "seed": seed}
    if entry.external:
        options |= {"hr_pool": hr_pool or LEAVES, "degradation": degradation}
    return entry.teach(model, image, **options)


def check_method(
    method: str,
    hr_pool: str | Path | None = None,
    degradation: LearnedDegradation | str | Path | None = None,
) -> Method:
    """The entry of a method. Raises ValueError as `taught`."""
    if method not in METHODS:
        raise ValueError(f"adapt: expected one of {', '.join(METHODS)}, got {method!r}")
    if hr_pool is not None and not METHODS[method].external:
        raise ValueError(f"hr pool: {method} learns from the picture alone and takes none")
    if degradation is not None and not METHODS[method].external:
        raise ValueError(f"degradation: {method} takes a kernel, a learned one is for onsr")
    return METHODS[method]


def load(
    path: str | Path, base: nn.Module | str | Path | None = None, device: str = "auto"
) -> Adapted:
    """What `Adapted.save` wrote, on the model that it was taught from.

    Args:
        base: that model, or what `pysr.nets.load_model` takes. ZSSR is taught from none: its file
            needs none, and makes its own.
    Raises:
        ModelError: for a file that is missing, damaged, no delta, or taught from another model, and
            for no model where one is needed.
    """
    file = delta.read(path)
    try:
        report = Report.from_json(file.report)
        method = METHODS[report.method]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: not a readable file (its report: {error!r})") from None
    if method.base is not None and not isinstance(base, ZSSR):
        try:
            base = method.base(file.settings)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{path}: not a readable file (its settings: {error!r})") from None
    elif base is None:
        raise ModelError(f"{path}: expected the model that {report.method} taught, got none")
    elif not isinstance(base, nn.Module):
        base = load_model(base, file.scale)
    if fingerprint(base) != file.base:
        raise ModelError(f"{path}: was taught from another model than the one given")

    def form(base: nn.Module) -> nn.Module:
        return method.form(base, report, file.settings)

    model = form(base)
    try:
        delta.add(model, file.differences)
    except (KeyError, RuntimeError) as error:
        raise ModelError(f"{path}: does not fit the model that it names ({error})") from None
    upscaler = Upscaler(model.eval(), device=device, kernel=report.kernel)
    return Adapted(upscaler, report, base, form, file.settings)
