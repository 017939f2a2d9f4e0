"""Where a model computes: device, dtype, threads, and what the device's errors mean."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import torch

from qa_ray.errors import ConfigError
from qa_ray.model.settings import Device, Dtype
from qa_ray.process import num_cores, threads_sleep

# After these errors "the process must be terminated and relaunched" (CUDA Runtime API, cudaError_t); HIP's are alike.
DEVICE_FAILURES = (
    "an illegal memory access was encountered",
    "device-side assert triggered",
    "unspecified launch failure",
    "the launch timed out and was terminated",
    "misaligned address",
    "an illegal instruction was encountered",
    "invalid program counter",
    "hardware stack error",
    "operation not supported on global/shared address space",
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
)
# Of CUDA and its libraries, of torch's allocator on a CPU, and of C++.
OUT_OF_MEMORY = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "can't allocate memory",
    "std::bad_alloc",
)


def use_threads(num_threads: int) -> None:
    """Lets this process's forward passes use ``num_threads`` threads; Ray would leave them one."""
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    torch.set_num_threads(num_threads)


@contextmanager
def using_threads(num_threads: int) -> Iterator[None]:
    """Computes with ``num_threads`` threads in the block, then with as many as before."""
    threads_before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)


def default_threads() -> int:
    """The threads of a process that others may share: as many as torch and the container allow, if they wait asleep."""
    return min(torch.get_num_threads(), num_cores()) if threads_sleep() else 1


def resolve_dtype(dtype: str, device: str) -> str:
    """``dtype``; for ``auto`` bfloat16 where the device computes in it (every GPU since 2020), else float32.

    Raises:
        ConfigError: an unknown dtype, or int8 on a device on which it is not faster.
    """
    check_choice("dtype", dtype, get_args(Dtype))
    if dtype == "int8":
        _check_int8(device)
    if dtype != "auto":
        return dtype
    return "bfloat16" if device == "cuda" or cpu_has_bfloat16() else "float32"


def cpu_has_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16; others emulate it, which is slower than float32."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # the last one is ARM's


def _check_int8(device: str) -> None:
    if device != "cpu":
        raise ConfigError("dtype='int8': is for CPUs, and the device is a GPU; use dtype bfloat16 there")
    if not cpu_has_int8():
        raise ConfigError(
            "dtype='int8': this processor has no instructions that make it faster (AVX-512 with VNNI and bfloat16, or "
            "AMX); use dtype auto"
        )


def cpu_has_int8() -> bool:
    """Whether this processor multiplies in int8, and in bfloat16 what is left of a model's layers."""
    capabilities = torch.cpu.get_capabilities()
    pairs = (("avx512_vnni", "avx512_bf16"), ("amx_int8", "amx_bf16"))
    return any(all(capabilities.get(name) for name in pair) for pair in pairs)


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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or this process, had too little memory: less work at a time may fit."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)


def is_device_failure(error: BaseException) -> bool:
    """Whether the GPU failed in such a way that every later call of this process fails, too, whatever its input."""
    if isinstance(error, RuntimeError) and any(text in str(error) for text in DEVICE_FAILURES):
        return True
    if not torch.cuda.is_initialized():
        return False
    try:  # libraries that compute on the GPU report its failure in words of their own
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def release_unused_memory() -> None:
    """Returns the memory that torch holds for later use to the GPU, for cuBLAS, cuDNN and other processes."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
