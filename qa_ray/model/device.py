"""Where a model computes: device, type and threads."""

import os

import torch

from qa_ray.errors import ConfigError


def use_threads(num_threads: int) -> None:
    """How many threads this process's forward passes may use; Ray would leave it at one."""
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    torch.set_num_threads(num_threads)


def resolve_dtype(dtype: str, device: str) -> str:
    """``auto`` is bfloat16 where the device computes in it (every GPU since 2020), else float32."""
    if dtype != "auto":
        return dtype
    native = {"avx512_bf16", "amx_bf16", "bf16"}  # the last one is ARM's
    has_bfloat16 = device == "cuda" or any(torch.cpu.get_capabilities().get(name) for name in native)
    return "bfloat16" if has_bfloat16 else "float32"


def resolve_device(device: str) -> str:
    """``cuda`` or ``cpu``; ``auto`` takes the GPU if there is one."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("runner.device=cuda: no GPU can be seen from here; set runner.device=cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
