"""The README's tables are what its generator makes of the cards, the benchmark file and the settings."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_tables_are_up_to_date():
    command = [sys.executable, "docs/tables.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 0, "run: PYTHONPATH=. python docs/tables.py"
