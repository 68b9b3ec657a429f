"""A plain FastAPI handler: decode, run, encode.

    python -m benchmarks.rivals.fastapi_server BUNDLE PORT THREADS

The handler is a plain function, so the framework runs it in its pool of threads and not on the event loop.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import uvicorn
from fastapi import FastAPI, File, Response

from benchmarks.rivals.model import Model, read_pair, write_png


def create_app(model: Model) -> FastAPI:
    """Builds the app around a loaded model."""
    app = FastAPI()

    @app.post("/fuse")
    def fuse(image_a: Annotated[bytes, File()], image_b: Annotated[bytes, File()]) -> Response:
        pair = read_pair(image_a, image_b)
        return Response(write_png(model.fuse([pair])[0], pair), media_type="image/png")

    @app.get("/health")
    def health() -> str:
        return "ok"

    return app


if __name__ == "__main__":
    bundle, port, threads = sys.argv[1:]
    app = create_app(Model(Path(bundle), int(threads)))
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")
