from __future__ import annotations

import subprocess
import sys

CODE = """
import importlib, pkgutil, sys
import app
names = [module.name for module in pkgutil.iter_modules(app.__path__) if module.name != "__main__"]
for name in names:
    importlib.import_module(f"app.{name}")
loaded = {"torch", "training", "models"} & set(sys.modules)
assert len(names) > 20, names
assert not loaded, loaded
"""


def test_no_module_of_app_imports_torch_or_training():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
