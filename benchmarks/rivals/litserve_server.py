"""LitServe with one worker, batching off (MOST 1) or on.

    python -m benchmarks.rivals.litserve_server BUNDLE PORT THREADS MOST

Needs ``pip install litserve onnxruntime pillow python-multipart``.
"""

# No postponed annotations: LitServe compares the type of ``request`` itself, and would hand on what cannot be pickled.
import sys
from collections import defaultdict
from pathlib import Path

import litserve
import numpy as np
from fastapi import Request, Response
from numpy.typing import NDArray

from benchmarks.rivals.model import Model, Pair, read_pair, write_png

BATCH_SECONDS = 0.01
TIMEOUT_SECONDS = 120

Result = tuple[NDArray[np.float32], Pair]


class FuseAPI(litserve.LitAPI):  # type: ignore[misc]
    """Decodes, runs and encodes in the worker, as LitServe does it."""

    def __init__(self, bundle: Path, threads: int, **options: float) -> None:
        super().__init__(api_path="/fuse", **options)
        self._bundle = bundle
        self._threads = threads

    def setup(self, device: str) -> None:
        """Loads the model in the worker."""
        self._model = Model(self._bundle, self._threads)

    def decode_request(self, request: Request) -> Pair:
        """Reads both files of a form."""
        return read_pair(request["image_a"].file.read(), request["image_b"].file.read())

    def predict(self, x: Pair) -> Result:
        """Fuses one pair."""
        return self._model.fuse([x])[0], x

    def encode_response(self, output: Result) -> Response:
        """Writes the picture."""
        return Response(write_png(*output), media_type="image/png")


class BatchedFuseAPI(FuseAPI):
    """Runs pairs of one size together."""

    def batch(self, inputs: list[Pair]) -> list[Pair]:
        """Keeps pairs apart: their sizes may differ."""
        return inputs

    def predict(self, x: list[Pair]) -> list[Result]:  # type: ignore[override]
        """Fuses the pairs of each size in one run."""
        places = defaultdict(list)
        for place, pair in enumerate(x):
            places[pair[0].size].append(place)
        results: dict[int, Result] = {}
        for same in places.values():
            for place, fused in zip(same, self._model.fuse([x[place] for place in same]), strict=True):
                results[place] = (fused, x[place])
        return [results[place] for place in range(len(x))]

    def unbatch(self, output: list[Result]) -> list[Result]:
        """Returns the results one by one."""
        return output


def create_api(bundle: Path, threads: int, most: int) -> FuseAPI:
    """Builds the API; ``most`` pairs at once, or one by one."""
    if most == 1:
        return FuseAPI(bundle, threads)
    return BatchedFuseAPI(bundle, threads, max_batch_size=most, batch_timeout=BATCH_SECONDS)


if __name__ == "__main__":
    bundle, port, threads, most = sys.argv[1:]
    api = create_api(Path(bundle), int(threads), int(most))
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=TIMEOUT_SECONDS)
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning")
