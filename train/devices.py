"""GPUs by name: arithmetic, memory and links as their datasheets state them. Importable without torch.

A device that is not in the table has no MFU and no plan, never a guessed one.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """One kind of GPU."""

    name: str
    """As the device's own name contains it, as whole words."""
    bf16_peak: float
    """Dense bf16 FLOP/s."""
    memory_gib: float
    """What a program sees of its memory, in GiB; of several versions the one with most."""
    link: float
    """Bytes/s of a collective between the GPUs of one node, each way: about 85 % of NVLink, or PCIe."""


# The first name that a device's own name contains counts.
DEVICES = (
    Device("H200", 989.5e12, 139.8, 400e9),
    Device("H100 PCIe", 756e12, 79.2, 40e9),
    Device("H100 NVL", 835e12, 93.1, 40e9),
    Device("H100", 989.5e12, 79.2, 400e9),
    Device("GH200", 989.5e12, 94.5, 400e9),
    Device("H800", 989.5e12, 79.2, 170e9),
    Device("H20", 148e12, 94.9, 400e9),
    Device("GB200", 2500e12, 184.0, 800e9),
    Device("B200", 2250e12, 178.4, 800e9),
    Device("A100", 312e12, 79.2, 250e9),
    Device("A800", 312e12, 79.2, 170e9),
    Device("L40S", 362e12, 44.4, 20e9),
    Device("L40", 181e12, 44.4, 20e9),
    Device("L4", 121e12, 22.0, 20e9),
    Device("A40", 149.7e12, 44.4, 20e9),
    Device("A10G", 70e12, 22.0, 20e9),
    Device("RTX 4090", 165.2e12, 23.5, 20e9),
    Device("RTX 3090", 71e12, 23.5, 20e9),
)


def find_device(name: str) -> Device | None:
    """Returns the device that a name contains, `NVIDIA H100 PCIe` and `h100-pcie` alike, or None if none is known."""
    words = re.sub(r"[-_]", " ", name)
    return next((device for device in DEVICES if re.search(rf"\b{device.name}\b", words, re.IGNORECASE)), None)


def bf16_peak(device_name: str) -> float | None:
    """Returns the dense bf16 FLOP/s of a device by its name, or None if the table does not have it."""
    device = find_device(device_name)
    return None if device is None else device.bf16_peak
