"""Errors of a device are told apart: it is out of memory, it is lost to this process, or it works."""

import re

import numpy as np
import pytest
import torch

from qa_ray.model.device import is_device_failure, is_out_of_memory

LOST = [
    torch.AcceleratorError(
        "CUDA error: an illegal memory access was encountered\nSearch for `cudaErrorIllegalAddress'"
    ),
    torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered\nCompile with `TORCH_USE_CUDA_DSA`"),
    torch.AcceleratorError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("Triton Error [CUDA]: misaligned address"),
]
OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 139 GiB"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("std::bad_alloc"),
    MemoryError(),
]
ORDINARY = [
    RuntimeError("shape '[2, 3]' is invalid for input of size 5"),
    torch.AcceleratorError("CUDA error: invalid configuration argument"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    ValueError("the document says: device-side assert triggered, out of memory"),
    FloatingPointError("the model's logits are not finite"),
]


@pytest.mark.parametrize("error", LOST, ids=str)
def test_errors_after_which_every_later_call_fails_are_device_failures(error: Exception):
    assert is_device_failure(error)
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=repr)
def test_memory_that_cannot_be_allocated_is_no_device_failure(error: Exception):
    assert is_out_of_memory(error)
    assert not is_device_failure(error)


@pytest.mark.parametrize("error", ORDINARY, ids=str)
def test_other_errors_are_neither(error: Exception):
    assert not is_out_of_memory(error)
    assert not is_device_failure(error)


def test_what_the_cpu_allocator_and_numpy_raise_is_out_of_memory():
    for allocate in (torch.empty, np.empty):
        with pytest.raises(Exception, match=re.compile("allocate", re.IGNORECASE)) as raised:
            allocate(2**50)
        assert is_out_of_memory(raised.value)


class BrokenGPU:
    """torch.cuda of a process whose GPU fails at every call, though the last error's text does not say so."""

    def is_initialized(self) -> bool:
        return True

    def synchronize(self) -> None:
        raise torch.AcceleratorError("CUDA error: unknown error")


@pytest.mark.parametrize("error", ORDINARY, ids=str)
def test_after_any_error_a_gpu_that_does_not_work_is_a_device_failure(
    error: Exception, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch, "cuda", BrokenGPU())
    assert is_device_failure(error)
