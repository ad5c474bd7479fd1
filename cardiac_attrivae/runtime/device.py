"""The device to compute on."""

from __future__ import annotations

import torch


def find_device(name: str) -> torch.device:
    """The device of a name; ``auto`` is the GPU if there is one.

    Raises:
        ValueError: If the name is none, or there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device is {name!r}; expected auto, cpu, cuda or cuda:N") from None
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(f"device is {name!r} but {count} GPUs are found; expected auto or cpu")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {name!r}; expected auto, cpu, cuda or cuda:N")
    return device
