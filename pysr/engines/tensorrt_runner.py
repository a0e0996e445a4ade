"""A TensorRT engine on a GPU: torch tensors in, torch tensors out.

Execution contexts are made per profile when a shape first asks for one, so memory is taken for the
sizes in use. Work runs on a stream of its own, between waits on torch's current one: TensorRT
synchronises on the default stream.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pysr.engines.tensorrt_build import Log, TensorRTError, load_package, profile_for
from pysr.files import written_whole


class Runner:
    """Runs a serialised engine.

    Args:
        package: what built it.
        plan: the engine.
        device: a GPU.
        compiled: a file for what TensorRT for RTX compiles on the device, which a later runner of
            the same engine need not compile again; None keeps nothing.
    Raises:
        TensorRTError: when TensorRT does not take the engine.
    """

    def __init__(self, package: str, plan: bytes, device: torch.device, compiled: Path | None):
        self._trt = load_package(package)
        self._log = Log(self._trt)
        self._device, self._compiled = device, compiled
        with torch.cuda.device(device):
            self._stream = torch.cuda.Stream()
            self._runtime = self._trt.Runtime(self._log.logger)
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise TensorRTError(f"the engine does not load: {self._log.reason()}")
            self._config = self._engine.create_runtime_config()
        strategies = self._trt.ExecutionContextAllocationStrategy
        self._config.set_execution_context_allocation_strategy(strategies.ON_PROFILE_CHANGE)
        self._cache = self._runtime_cache() if package == "tensorrt-rtx" else None
        self._contexts, self._lock = {}, threading.Lock()
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        output = self._trt.TensorIOMode.OUTPUT
        (self._output,) = (n for n in names if self._engine.get_tensor_mode(n) == output)

    def __call__(self, **given: Tensor) -> Tensor:
        """The output for inputs by name, float32. Raises TensorRTError, ValueError.

        ValueError is for a shape outside of every profile.
        """
        n, _, h, w = given["lr"].shape
        profile = profile_for(n, h, w)
        if profile is None:
            raise ValueError(f"lr: no profile holds {n} pictures of {w}x{h}")
        given = {
            name: value.to(self._device, torch.float32).contiguous()
            for name, value in given.items()
        }
        # A context holds one picture's addresses: threads take turns, and so does its stream.
        with self._lock, torch.cuda.device(self._device):
            if self._engine is None:
                raise TensorRTError("the engine was closed")
            context = self._context(profile)
            for name, value in given.items():
                if not context.set_input_shape(name, tuple(value.shape)):
                    raise TensorRTError(f"{name}: {tuple(value.shape)}: {self._log.reason()}")
                context.set_tensor_address(name, value.data_ptr())
            out = torch.empty(tuple(context.get_tensor_shape(self._output)), device=self._device)
            context.set_tensor_address(self._output, out.data_ptr())
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            if not context.execute_async_v3(self._stream.cuda_stream):
                raise TensorRTError(f"the engine does not run: {self._log.reason()}")
            current.wait_stream(self._stream)
        return out

    def refit(self, weights: Mapping[str, Tensor]) -> None:
        """Replace weights, by their names in the graph. Raises TensorRTError if any is left over.

        The engine must have been built refittable.
        """
        types = {
            torch.float32: self._trt.float32,
            torch.float16: self._trt.float16,
            torch.bfloat16: self._trt.bfloat16,
        }
        with torch.cuda.device(self._device):
            refitter = self._trt.Refitter(self._engine, self._log.logger)
            kept = {name: value.cpu().contiguous() for name, value in weights.items()}
            for name in refitter.get_all_weights():
                value = kept.get(name)
                if value is None:  # not a weight of the model: a constant of the graph
                    continue
                new = self._trt.Weights(types[value.dtype], value.data_ptr(), value.numel())
                if not refitter.set_named_weights(name, new):
                    raise TensorRTError(f"{name} is not refitted: {self._log.reason()}")
            missing = refitter.get_missing_weights()
            if missing or not refitter.refit_cuda_engine():
                raise TensorRTError(f"no refit: {', '.join(missing) or self._log.reason()}")

    def close(self) -> None:
        """Free the GPU memory, keep what was compiled where that can be written; idempotent."""
        if self._cache is not None and self._compiled is not None:
            try:
                with written_whole(self._compiled) as beside:
                    beside.write_bytes(bytes(self._cache.serialize()))
            except OSError as error:
                warnings.warn(f"{error}: it will be compiled again", stacklevel=2)
        with self._lock:
            self._stream.synchronize()  # a context must not go while it works
            self._contexts.clear()
            self._cache = self._config = self._engine = self._runtime = None

    def _context(self, profile: int):
        if profile not in self._contexts:
            context = self._engine.create_execution_context(self._config)
            if context is None:
                free, _ = torch.cuda.mem_get_info()
                raise TensorRTError(
                    f"no execution context, {free / 2**30:.1f} GiB are free: {self._log.reason()}"
                )
            if not context.set_optimization_profile_async(profile, self._stream.cuda_stream):
                raise TensorRTError(f"profile {profile} is refused: {self._log.reason()}")
            self._contexts[profile] = context
        return self._contexts[profile]

    def _runtime_cache(self):
        cache = self._config.create_runtime_cache()
        if self._compiled is not None and self._compiled.is_file():
            cache.deserialize(self._compiled.read_bytes())  # a foreign one is refused, and replaced
        self._config.set_runtime_cache(cache)
        return cache
