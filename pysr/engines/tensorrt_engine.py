"""DAN through TensorRT, by `tensorrt` or `tensorrt_rtx`.

The first picture does not wait: engines are built in the background, each when it is first needed,
while torch serves; each takes over once its output agrees with torch's. Built engines are kept in
the cache folder. Torch goes on serving where no engine can: shapes outside of every profile of
`tensorrt_build`, the channel attention of tiled pictures, and engines that fail, with a warning.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pysr.engines.onnx_export import checked_graph
from pysr.engines.onnx_graphs import GRAPHS
from pysr.engines.parity import TOLERANCES, disagreement
from pysr.engines.plan_files import cached_plan, plan_path
from pysr.engines.takeover import Takeover
from pysr.engines.tensorrt_build import (
    TensorRTError,
    build_plan,
    installed_package,
    load_package,
    local_target,
    plan_facts,
    profile_for,
)
from pysr.engines.tensorrt_runner import Runner
from pysr.engines.torch_engine import PRECISIONS, TorchEngine
from pysr.nets import DAN

# Pictures (n, h, w) that an engine is compared with torch at before it serves: all its profiles.
SIZES = ((2, 24, 20), (1, 3, 5), (1, 20, 300), (1, 20, 600))


class TensorRTEngine:
    """See `pysr.engines`. The weights are those that the model has when the engine is made, or when
    `reload` was called last."""

    @staticmethod
    def obstacle(device: torch.device, precision: str = "float32") -> str:
        try:
            local_target(installed_package(), device)
        except TensorRTError as error:
            return str(error)
        return ""

    def __init__(self, model: DAN, device: torch.device, precision: str = "float32"):
        self.device, self.precision = device, precision
        self._target = local_target(installed_package(), device)
        self._source = model
        self._refittable: DAN | None = None  # the model that engines for refits are built from
        self._start()

    def reload(self) -> None:
        """Take the weights that the model has now, as after learning at test time.

        Engines are refitted where the runtime allows, else built again, and compared with torch,
        which serves meanwhile.
        """
        self._takeover.close()
        self._refittable = self._refittable or self._model
        self._start()

    def restore(self, lr: Tensor, code: Tensor, gates: Sequence[Tensor] | None = None) -> Tensor:
        given = {"lr": lr, "code": code.expand(len(lr), -1)}
        if gates is not None:
            given["gates"] = torch.stack([gate[0, :, 0, 0] for gate in gates])
        return self._served(
            "restorer" if gates is None else "restorer_gated",
            lambda: self._torch.restore(lr, code, gates),
            given,
        )

    def estimate(self, lr: Tensor, sr: Tensor) -> Tensor:
        return self._served("estimator", lambda: self._torch.estimate(lr, sr), {"lr": lr, "sr": sr})

    def gates(self, crops: Tensor, code: Tensor, margin: tuple[int, int]) -> list[Tensor]:
        return self._torch.gates(crops, code, margin)

    def warm_up(self, n: int, h: int, w: int) -> None:
        for name in ("restorer", "estimator"):
            self._takeover.get(name, wait=True)
        lr = torch.zeros(n, 3, h, w, device=self.device)
        self.estimate(lr, self.restore(lr, self._source.init_ker_map.to(self.device)))

    def describe(self) -> str:
        version = load_package(self._target.package).__version__
        return f"{self._target.package} {version}, {self.precision}, {self.device}"

    def close(self) -> None:
        self._takeover.close()
        self._torch.close()

    def _start(self) -> None:
        self._model = copy.deepcopy(self._source).eval().cpu()  # the thread's own
        serving = copy.deepcopy(self._source.to(self.device))  # and what serves beside it
        self._torch = TorchEngine(serving, self.device, self.precision)
        self._takeover = Takeover(self._made)

    def _served(self, name: str, stand_in: Callable[[], Tensor], given: dict) -> Tensor:
        n, _, h, w = given["lr"].shape
        if profile_for(n, h, w) is None:
            if min(h, w) >= 3:
                warnings.warn(
                    "a picture outside of every TensorRT profile: torch serves", stacklevel=4
                )
            return stand_in()
        runner = self._takeover.get(name)
        if runner is None:
            return stand_in()
        try:
            return runner(**given)
        except TensorRTError as error:
            self._takeover.give_up(name, error)
            return stand_in()

    def _made(self, name: str) -> Runner:
        """In the background: a runner that agrees with torch."""
        # A thread begins on the first GPU, where its engine would be built and timed.
        with torch.cuda.device_of(torch.empty(0, device=self.device)):
            if self._refittable is not None:
                try:
                    return self._checked(name, self._refitted(name))
                except TensorRTError:
                    pass  # this runtime refits nothing, or not truly
            return self._checked(name, self._built(name))

    def _refitted(self, name: str) -> Runner:
        runner = self._runner(name, self._refittable, refittable=True)
        runner.refit(GRAPHS[name](self._model, PRECISIONS[self.precision]).state_dict())
        return runner

    def _built(self, name: str) -> Runner:
        return self._runner(name, self._model, keep=self._refittable is None)

    def _runner(
        self, name: str, model: DAN, *, refittable: bool = False, keep: bool = True
    ) -> Runner:
        facts = plan_facts(model, name, self.precision, self._target, refittable)

        def build() -> bytes:
            graph = checked_graph(model, name, self.precision)
            return build_plan(graph, model.config, self._target, refittable)

        plan = cached_plan(facts, build) if keep else build()
        compiled = plan_path(facts).with_suffix(".compiled") if keep else None
        return Runner(self._target.package, plan, self.device, compiled)

    def _checked(self, name: str, runner: Runner) -> Runner:
        for size in SIZES:
            difference = disagreement(self._model, name, size, runner)
            if not difference <= TOLERANCES[self.precision]:
                runner.close()
                raise TensorRTError(
                    f"its {name} differs from torch by {difference:.2g} at {size}, more than "
                    f"{TOLERANCES[self.precision]}"
                )
        return runner
