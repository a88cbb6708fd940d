"""`torch.compile` for training steps, block by block and in place, so that no key of a state dict changes."""

import inspect
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from limoe.errors import require_argument


def compile_blocks(blocks: Iterable[nn.Module], compile: bool | Mapping[str, Any]) -> None:
    """Compile each of these modules in place; equal ones share one graph.

    The first step takes about a minute on a CPU, and so does the first one with another batch size. Router noise of
    compiled code is of the same distribution, but not the same numbers.

    Args:
        blocks: the transformer blocks of a model, or the model itself where it has none.
        compile: False = leave it, True = PyTorch's defaults, or arguments of `torch.compile` (`mode`, `backend` ...).

    Raises:
        ArgumentError: unknown argument or backend, or the backend's own compiler is missing.
    """
    if compile is False:
        return
    arguments = {} if compile is True else dict(compile)
    known = sorted(set(inspect.signature(torch.compile).parameters) - {"model", "disable"})
    for name in arguments:
        require_argument(name in known, "compile", f"true, false or a map with keys among {', '.join(known)}", name)
    backend = arguments.get("backend", "inductor")
    names = torch.compiler.list_backends(exclude_tags=())
    require_argument(backend in names, "compile.backend", f"one of {', '.join(names)}", backend)
    if backend == "inductor":
        compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
        rule = f"false where there is no C++ compiler: {compiler} is not installed (install it, or name one in $CXX)"
        require_argument(shutil.which(compiler) is not None, "compile", rule, True)
    for block in blocks:
        block.compile(**arguments)


def uncompiled() -> AbstractContextManager[Any]:
    """Runs compiled modules uncompiled: evaluation has other shapes, and slots without limit depend on the data."""
    is_in_use = "torch._dynamo" in sys.modules  # else nothing is compiled, and importing it takes seconds
    return torch.compiler.set_stance("force_eager") if is_in_use else nullcontext()
