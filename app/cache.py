"""Keeps the codes of images seen lately: a request with another edit strength skips the encoder."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

import numpy as np

from app.backend import Tensor
from app.color import Plane


class CodeCache:
    """Codes of one model by image, the least recently used dropped first; for several threads.

    Args:
        max_bytes: Most bytes of all codes together; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._codes: OrderedDict[bytes, Tensor] = OrderedDict()
        self._bytes = 0
        self._guard = threading.Lock()

    def __len__(self) -> int:
        return len(self._codes)

    def clear(self) -> None:
        """Forgets all codes."""
        with self._guard:
            self._codes.clear()
            self._bytes = 0

    def get(self, key: bytes) -> Tensor | None:
        """Returns the code stored under a key, or None."""
        with self._guard:
            code = self._codes.get(key)
            if code is not None:
                self._codes.move_to_end(key)
            return code

    def drop(self, key: bytes) -> None:
        """Forgets the code stored under a key, if there is one."""
        with self._guard:
            code = self._codes.pop(key, None)
            self._bytes -= 0 if code is None else code.nbytes

    def put(self, key: bytes, code: Tensor) -> None:
        """Stores one code; drops old ones, or this one if it is larger than the whole cache."""
        if code.nbytes > self._max_bytes:
            return
        with self._guard:
            previous = self._codes.pop(key, None)
            self._bytes += code.nbytes - (previous.nbytes if previous is not None else 0)
            self._codes[key] = code
            while self._bytes > self._max_bytes:
                _, dropped = self._codes.popitem(last=False)
                self._bytes -= dropped.nbytes


def image_key(luma: Plane) -> bytes:
    """Returns the cache key of a luminance (H, W): equal for equal pixels and size, different otherwise."""
    size = luma.shape[0].to_bytes(4) + luma.shape[1].to_bytes(4)
    return size + hashlib.sha256(np.ascontiguousarray(luma).data).digest()
