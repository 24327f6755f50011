"""A forward hook for the length of a ``with``."""

import contextlib
from collections.abc import Callable, Iterator

from torch import nn


@contextlib.contextmanager
def hooked(module: nn.Module, function: Callable) -> Iterator[None]:
    """``function(input, output)`` at every pass; what it returns, if anything, replaces the output.

    Blocks of some transformers releases return tuples: then it is about the first entry.
    """

    def hook(_module, inputs, output):
        hidden = output[0] if isinstance(output, tuple) else output
        changed = function(inputs[0] if inputs else None, hidden)
        return (changed, *output[1:]) if changed is not None and isinstance(output, tuple) else changed

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
