"""How an evaluation ends that is interrupted or killed: in processes of its own, on a terminal of its own."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from contextlib import contextmanager, suppress

import pytest
from PIL import Image

from tests.training.tiny_bundle import grey
from tests.training.tiny_runs import ROOT
from training import __main__ as command_line
from training.evaluation import command

PAIRS = 60
STOPPED = "stopped; the same command evaluates from the start"
MEASURING = rb" [1-9]\d*/60 "
"""What the progress bar shows when the first pair is measured."""
STARTING = rb" 0/60 (?s:.*)\| +numpy\r\n"
"""The bar stands, and then Python reports that numpy is loaded: by a process that is to measure."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """So many pairs that no machine has measured them before it is stopped, of more bytes than a pipe holds."""
    root = tmp_path_factory.mktemp("pairs")
    for seed, side in enumerate(("visible", "infrared")):
        (root / side).mkdir()
        Image.fromarray(grey(seed, (200, 200))).save(root / side / "0.png")
        for number in range(1, PAIRS):
            (root / side / f"{number}.png").symlink_to("0.png")
    return root


class Terminal:
    """What a process and those that it started write to their terminal."""

    def __init__(self, process, descriptor):
        self.process, self.descriptor, self.text = process, descriptor, b""

    def read(self):
        """The next piece, empty when every process that could write has ended."""
        assert select.select([self.descriptor], [], [], 120)[0], f"nothing more came after {self.text!r}"
        try:
            piece = os.read(self.descriptor, 4096)
        except OSError:  # how Linux reports the end
            return b""
        self.text += piece
        return piece

    def wait_for(self, pattern):
        while not re.search(pattern, self.text):
            assert self.read(), self.text

    def end(self):
        """Exit status, and the lines that are no progress bar and no report of a loaded module, once all has ended."""
        while self.read():
            pass
        lines = re.split(r"[\r\n]+", self.text.decode())
        return self.process.wait(), [line for line in lines if line and not re.search(r"/60 \[|^import time:", line)]


@pytest.fixture(autouse=True)
def _heeded_ctrl_c():
    """A shell makes what it starts in the background ignore it, such as these tests, and they pass that on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextmanager
def evaluating(data, jobs):
    """``evaluate`` as the leader of a process group, none of which outlives this."""
    descriptor, end_of_process = pty.openpty()
    termios.tcsetwinsize(end_of_process, (24, 100))
    words = ["evaluate", "--data", data, "--baselines", "--jobs", str(jobs)]
    process = subprocess.Popen(
        [sys.executable, "-m", "training", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPROFILEIMPORTTIME": "1"},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=end_of_process,
        stderr=end_of_process,
        start_new_session=True,
    )
    os.close(end_of_process)
    try:
        yield Terminal(process, descriptor)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(descriptor)


@pytest.mark.parametrize(
    ("jobs", "moment"), [(1, MEASURING), (2, STARTING), (2, MEASURING)], ids=["alone", "starting", "measuring"]
)
def test_ctrl_c_ends_all_processes_with_one_line(data, jobs, moment):
    with evaluating(data, jobs) as terminal:
        terminal.wait_for(moment)
        os.killpg(terminal.process.pid, signal.SIGINT)  # a terminal sends it to the whole group
        assert terminal.end() == (130, [STOPPED])


def test_no_process_outlives_a_killed_evaluation(data):
    with evaluating(data, 2) as terminal:
        terminal.wait_for(MEASURING)
        terminal.process.kill()
        status, _ = terminal.end()
    assert status == -signal.SIGKILL


def test_ctrl_c_while_a_command_is_loaded_is_one_line(monkeypatch, capsys):
    def interrupt(parser):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "add_arguments", interrupt)
    assert command_line.main(["evaluate"]) == 130
    assert capsys.readouterr().err == "stopped at once\n"
