"""Gradients of operators that are linear in the picture and in the kernels.

Such an operator and its two gradients are closed under differentiation: each of the three is the
gradient of another, and gradients of any order run on the same kernels.
"""

from __future__ import annotations

import torch


def register_gradients(name: str) -> None:
    """Make an operator and its gradients, all three defined before, differentiable.

    They are ``name(x, kernels, *options)``, ``name_grad_x(grad, kernels, height, width, *options)``
    and ``name_grad_kernels(grad, x, k, *options)``, where kernels are (N, k, k, ...).
    """
    operator = getattr(torch.ops.pysr, name)
    operator_grad_x = getattr(torch.ops.pysr, f"{name}_grad_x")
    operator_grad_kernels = getattr(torch.ops.pysr, f"{name}_grad_kernels")

    def save(ctx, inputs, output):
        first, second, *ctx.rest = inputs
        by_first, by_second = ctx.needs_input_grad[:2]
        # What one input's gradient needs is the other input.
        ctx.save_for_backward(first if by_second else None, second if by_first else None)
        ctx.first_shape, ctx.second_shape = first.shape, second.shape

    def backward(ctx, grad):
        (x, kernels), options = ctx.saved_tensors, ctx.rest
        by_x, by_kernels = ctx.needs_input_grad[:2]
        (height, width), k = ctx.first_shape[2:], ctx.second_shape[1]
        return (
            operator_grad_x(grad, kernels, height, width, *options) if by_x else None,
            operator_grad_kernels(grad, x, k, *options) if by_kernels else None,
            *(None for _ in ctx.rest),
        )

    def backward_of_grad_x(ctx, grad_x):
        (slope, kernels), (_, _, *options) = ctx.saved_tensors, ctx.rest
        by_slope, by_kernels = ctx.needs_input_grad[:2]
        k = ctx.second_shape[1]
        return (
            operator(grad_x, kernels, *options) if by_slope else None,
            operator_grad_kernels(slope, grad_x, k, *options) if by_kernels else None,
            *(None for _ in ctx.rest),
        )

    def backward_of_grad_kernels(ctx, grad_kernels):
        (slope, x), (_, *options) = ctx.saved_tensors, ctx.rest
        by_slope, by_x = ctx.needs_input_grad[:2]
        height, width = ctx.second_shape[2:]
        return (
            operator(x, grad_kernels, *options) if by_slope else None,
            operator_grad_x(slope, grad_kernels, height, width, *options) if by_x else None,
            *(None for _ in ctx.rest),
        )

    for suffix, derivative in (
        ("", backward),
        ("_grad_x", backward_of_grad_x),
        ("_grad_kernels", backward_of_grad_kernels),
    ):
        torch.library.register_autograd(f"pysr::{name}{suffix}", derivative, setup_context=save)
