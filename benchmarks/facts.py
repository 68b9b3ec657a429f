"""What a reader must know of the machine to judge the numbers; nothing that identifies it."""

from __future__ import annotations

import platform
import re
from datetime import date
from pathlib import Path

import numpy as np
import PIL

from app.cores import usable_cores
from app.onnx_backend import import_runtime

MODEL_NAME = re.compile(r"^model name\s*:\s*(.+)$", re.MULTILINE)


def machine_facts(threads: int) -> dict[str, str]:
    """Returns date, device, processor, cores, thread count and versions, in the order of printing."""
    return {
        "date": date.today().isoformat(),
        "device": "cpu",  # Where all benchmarks run their models.
        "processor": _processor(),
        "usable cores": f"{usable_cores()}",
        "threads of one run": f"{threads}",
        "onnxruntime": import_runtime().__version__,
        "Python": platform.python_version(),
        "numpy": np.__version__,
        "Pillow": PIL.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        found = MODEL_NAME.search(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or "unknown"
