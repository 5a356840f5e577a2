"""Compilation of the whole meta-gradient, inner gradients included."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence

import torch
import torch._inductor
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from innerloop.neural.batch import TaskBatch
from innerloop.neural.meta_gradient import GradientFunction


def compiled(function: GradientFunction) -> GradientFunction:
    """Compile a function once for each set of shapes.

    The trace holds the operations of one call: a branch of the module on the value of a tensor is taken once and for
    all.

    Raises
    ------
    RuntimeError
        If there is no C++ compiler.
    """
    _check_compiler()
    by_kind: dict[tuple[object, ...], Callable[..., list[Tensor]]] = {}

    def call(learned: Sequence[Tensor], batch: TaskBatch) -> tuple[Tensor, list[Tensor]]:
        data, structure = tree_flatten(batch.tensors)
        tensors = [tensor.detach() for tensor in (*learned, *data)]
        kind = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in tensors)
        if kind not in by_kind:
            by_kind[kind] = _compile(function, len(learned), tensors, structure)
        with torch.no_grad():
            values, *gradients = by_kind[kind](*tensors)
        return values, gradients

    return call


def _compile(
    function: GradientFunction, n_learned: int, tensors: Sequence[Tensor], structure: TreeSpec
) -> Callable[..., list[Tensor]]:
    def flat(*tensors: Tensor) -> list[Tensor]:
        values, gradients = function(tensors[:n_learned], TaskBatch(*tree_unflatten(tensors[n_learned:], structure)))
        return [values, *gradients]

    graph = make_fx(flat)(*tensors)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    with torch.no_grad():
        function_of_tensors: Callable[..., list[Tensor]] = torch._inductor.compile(graph, list(tensors))
    return function_of_tensors


def _check_compiler() -> None:
    if not any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++", "cl") if name):
        raise RuntimeError(
            "`compile=True` needs a C++ compiler, and neither $CXX nor g++ nor clang++ was found; install one (on "
            "Debian `apt install g++`) or leave `compile` off."
        )
