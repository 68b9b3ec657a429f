"""Tells an error of exhausted memory from all others by its text: neither onnxruntime nor torch has a class for all."""

from __future__ import annotations

# Lower case. Of onnxruntime's arena and its bound, torch on a CPU, CUDA, cuBLAS, cuDNN (old and new), and C++.
TEXTS = (
    "failed to allocate memory",
    "bfcarena::allocaterawinternal",
    "is smaller than requested bytes",
    "defaultcpuallocator",
    "out of memory",
    "cudaerrormemoryallocation",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "allocation_failed",
    "bad_alloc",
    "bad allocation",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory of the device or of the process could not be had."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(mark in text for mark in TEXTS)
