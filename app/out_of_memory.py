"""Tells an error of exhausted memory from all others. onnxruntime gives it no class of its own, only texts."""

from __future__ import annotations

# Lower case. Of onnxruntime's arena and its bound, CUDA, cuBLAS, cuDNN, and C++.
TEXTS = (
    "failed to allocate memory",
    "bfcarena::allocaterawinternal",
    "is smaller than requested bytes",
    "out of memory",
    "cudaerrormemoryallocation",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "bad_alloc",
    "bad allocation",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory of the device or of the process could not be had."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(mark in text for mark in TEXTS)
