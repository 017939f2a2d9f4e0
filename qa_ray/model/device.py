"""Where a model computes: device, dtype and threads."""

import os
from typing import get_args

import torch

from qa_ray.errors import ConfigError
from qa_ray.model.settings import Device, Dtype


def use_threads(num_threads: int) -> None:
    """Lets this process's forward passes use ``num_threads`` threads; Ray would leave them one."""
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    torch.set_num_threads(num_threads)


def resolve_dtype(dtype: str, device: str) -> str:
    """``dtype``; for ``auto`` bfloat16 where the device computes in it (every GPU since 2020), else float32."""
    check_choice("dtype", dtype, get_args(Dtype))
    if dtype != "auto":
        return dtype
    return "bfloat16" if device == "cuda" or cpu_has_bfloat16() else "float32"


def cpu_has_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16; others emulate it, which is slower than float32."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # the last one is ARM's


def resolve_device(device: str) -> str:
    """``cuda`` or ``cpu``; ``auto`` is the GPU if there is one."""
    check_choice("device", device, get_args(Device))
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("runner.device=cuda: torch finds no GPU on this machine; set runner.device=cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ConfigError for a value that is not one of the choices."""
    if value not in choices:
        raise ConfigError(f"{name}={value!r}: unknown; use one of {', '.join(choices)}")
