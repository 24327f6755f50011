"""Two devices that are none: tensors that say they lie on ``meta:0`` or ``meta:1`` and hold their numbers on the CPU.

No machine with two GPUs is needed to see whether code mixes devices: every operation on tensors of two devices raises,
as CUDA's would (a tensor of one number on the CPU may stand beside any; indices may lie on the CPU). Modules get the
hooks of accelerate that a ``device_map`` attaches, so that what the methods meet is what they meet on several GPUs.
"""

from __future__ import annotations

import contextlib

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
TO_CPU_AND_BACK = (aten._to_copy.default, aten.copy_.default, aten.copy.default)  # these may cross devices


class Placed(torch.Tensor):
    """A tensor that says it lies on a device, around the one on the CPU that holds its numbers."""

    @staticmethod
    def __new__(cls, held, device):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=device,
        )

    def __init__(self, held, device):
        self.held = held

    def tolist(self):
        return self.held.tolist()

    def __repr__(self):
        return f"Placed({self.held}, {self.device})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


def fake(device) -> bool:
    return device is not None and torch.device(device).type == "meta"


def run(function, args, kwargs):
    """The operation on the held tensors, its results on the one device that its arguments lie on."""
    given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    places = {x.device for x in given if isinstance(x, Placed)}
    target = kwargs.get("device")
    if function not in TO_CPU_AND_BACK:
        cpu = [x for x in given if not isinstance(x, Placed) and x.ndim]
        if function in INDEXING:
            cpu = [
                x for x in (args[0], *args[2:]) if isinstance(x, torch.Tensor) and not isinstance(x, Placed) and x.ndim
            ]
        if len(places) > 1 or (places and cpu):
            found = sorted({str(x.device) for x in given})
            raise RuntimeError(f"{function}: expected all tensors on the same device, but found {', '.join(found)}")
    place = (
        args[0].device if function is aten.copy_.default and isinstance(args[0], Placed) else next(iter(places), None)
    )
    if target is not None:
        place = torch.device(target)
        kwargs = {**kwargs, "device": torch.device("cpu")}
    plain = tree_map(lambda x: x.held if isinstance(x, Placed) else x, (args, kwargs))
    out = function(*plain[0], **plain[1])
    by_held = {id(x.held): x for x in given if isinstance(x, Placed)}

    def wrap(x):
        if not isinstance(x, torch.Tensor) or not fake(place):
            return x
        return by_held.get(id(x)) if id(x) in by_held else Placed(x, place)  # in place: the very same tensor

    return tree_map(wrap, out)


class Devices(TorchDispatchMode):
    """Makes ``torch.zeros(…, device="meta:1")`` and ``.to("meta:1")`` work as on a real device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if fake(kwargs.get("device")) or any(isinstance(x, Placed) for x in tree_flatten((args, kwargs))[0]):
            return run(function, args, kwargs)
        return function(*args, **kwargs)


def place(model, where: dict[str, str]):
    """Move the modules of a model to made-up devices and attach accelerate's hooks, as ``dispatch_model`` does."""
    done = set()
    for name, device in where.items():
        module = model.get_submodule(name)
        for owner in module.modules():
            for key, parameter in list(owner._parameters.items()):
                if parameter is not None and id(parameter) not in done:
                    held = Placed(parameter.detach().clone(), torch.device(device))
                    owner._parameters[key] = torch.nn.Parameter(held, requires_grad=parameter.requires_grad)
                    done.add(id(owner._parameters[key]))
            for key, buffer in list(owner._buffers.items()):
                if buffer is not None and not isinstance(buffer, Placed):
                    owner._buffers[key] = Placed(buffer.clone(), torch.device(device))
        add_hook_to_module(
            module, AlignDevicesHook(execution_device=torch.device(device), skip_keys="past_key_values"), append=True
        )
    add_hook_to_module(model, AlignDevicesHook(io_same_device=True, skip_keys="past_key_values"), append=True)
    return model


class Constants(TorchFunctionMode):
    """``torch.tensor`` and lists as indices do not ask the dispatcher: they are made on the CPU."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.tensor and fake(kwargs.get("device")):
            return torch.tensor(*args, **{**kwargs, "device": "cpu"}).to(kwargs["device"])
        if function is torch.Tensor.__getitem__ and isinstance(args[0], Placed) and isinstance(args[1], tuple):
            args = (args[0], tuple(torch.tensor(x) if isinstance(x, list) else x for x in args[1]))
        return function(*args, **kwargs)


@contextlib.contextmanager
def two_devices():
    """Inside, the devices ``meta:0`` and ``meta:1`` exist."""
    with Devices(), Constants():
        yield
