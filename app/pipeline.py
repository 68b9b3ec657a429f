"""The one straight line from two files to one file; the server and the command line both go through it.

open → decode → (queue) → encode codes → fuse → colour → encode. Decoding and encoding run in a pool of
threads, the model in the thread of its batcher, and nothing of it on the event loop. The model fuses
luminance, or red, green and blue as three pairs.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image

from app import codec
from app.batcher import Batcher
from app.card import ModelCard
from app.catalog import Catalog
from app.color import CHANNELS, join_color, stack_channels
from app.deadlines import TIMEOUT_HEADER
from app.engine import Engine, Fused, Job
from app.errors import BadPairError, DeadlineError, TooLargeError
from app.gate import Gate
from app.options import FuseOptions
from app.settings import Settings
from app.telemetry import Telemetry
from app.turns import Device, Share
from app.waiting import BatchLimits

T = TypeVar("T")

CUDA_BATCH = 8


@dataclass(frozen=True)
class FuseResult:
    """A fused image.

    Attributes:
        body: The encoded file.
        media_type: Its media type.
        model: Name of the model that made it.
        width: Width in pixels.
        height: Height in pixels.
        seconds: Time of each stage: decode, queue, encode_code, fuse, encode; queue ends with the first run, the two
            after it are sums over all runs.
    """

    body: bytes
    media_type: str
    model: str
    width: int
    height: int
    seconds: dict[str, float]


class Pipeline:
    """Fuses pairs of encoded images.

    Args:
        settings: Limits and thread counts.
        catalog: The loaded models.
        telemetry: Receives stage times and counts.
        gate: Bounds the pixels that are decoded at once.
    """

    def __init__(self, settings: Settings, catalog: Catalog, telemetry: Telemetry, gate: Gate) -> None:
        self._settings = settings
        self._catalog = catalog
        self._telemetry = telemetry
        self._gate = gate
        self._pool = ThreadPoolExecutor(settings.codec_pool_size, thread_name_prefix="codec")
        devices: defaultdict[str, Device] = defaultdict(Device)
        self._batchers = {engine.card.name: self._batcher(engine, devices[engine.backend.device]) for engine in catalog}

    def start(self) -> None:
        """Starts the batchers on the running event loop."""
        for batcher in self._batchers.values():
            batcher.start()

    async def stop(self) -> None:
        """Ends the batchers and the threads."""
        for batcher in self._batchers.values():
            await batcher.stop()
        await asyncio.to_thread(self._pool.shutdown)

    def unhealthy(self) -> list[str]:
        """Returns the names of the models that cannot run at present."""
        return [name for name, batcher in self._batchers.items() if not batcher.healthy]

    def wait_s(self) -> float:
        """Returns the seconds in which all models are likely to be done with what waits now."""
        return max(batcher.wait_s for batcher in self._batchers.values())

    async def fuse(
        self, file_a: bytes, file_b: bytes, options: FuseOptions, timeout_s: float | None = None
    ) -> FuseResult:
        """Fuses two encoded images.

        Args:
            file_a: The file of image_a.
            file_b: The file of image_b.
            options: Checked options.
            timeout_s: Seconds that the caller waits; those of the settings without.

        Raises:
            ClientError: An image, or the pair, cannot be used.
            ServerError: The service is overloaded, too slow, or the run failed.
        """
        timeout_s = self._settings.deadline_s if timeout_s is None else timeout_s
        expires_at = time.perf_counter() + timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await self._fuse(file_a, file_b, options, expires_at)
        except TimeoutError:
            raise DeadlineError(
                f"The picture was not ready after {timeout_s:g} s. Send a smaller pair, allow more time with "
                f"{TIMEOUT_HEADER}, or try again later."
            ) from None

    async def _fuse(self, file_a: bytes, file_b: bytes, options: FuseOptions, expires_at: float) -> FuseResult:
        engine = self._catalog.get(options.model)
        started = time.perf_counter()
        batcher = self._batchers[engine.card.name]
        # Before the pair costs anything; whether colour makes three of it shows later.
        batcher.check_room(1, expires_at)
        images = await self._in_pool(self._open_pair, file_a, file_b, engine.card)
        # Whether there is colour shows only when the pixels are read, and then room must have been held.
        planes = CHANNELS if options.color == "rgb" else 1
        with self._gate.hold_pixels(planes * sum(image.width * image.height for image in images)):
            first, second = await asyncio.gather(
                self._in_pool(codec.decode, images[0], "image_a", options.range16),
                self._in_pool(codec.decode, images[1], "image_b", options.range16),
            )
            _check_pair(first, second, engine.card, options)
            jobs = await self._in_pool(_jobs, engine, first, second, options)
            decoded = time.perf_counter()
            results = await batcher.submit(*jobs, expires_at=expires_at)
            ran = time.perf_counter()
            body = await self._in_pool(_finish, [fused for fused, _ in results], first, second, options)
        runs = {waited: fused for fused, waited in results}  # Jobs that waited equally long shared a run.
        seconds = {
            "decode": decoded - started,
            "queue": min(runs),
            "encode_code": sum(fused.encode_s for fused in runs.values()),
            "fuse": sum(fused.fuse_s for fused in runs.values()),
            "encode": time.perf_counter() - ran,
        }
        self._telemetry.observe_stages(seconds)
        height, width = jobs[0].size
        self._telemetry.pixels.inc(height * width)
        return FuseResult(body, codec.MEDIA_TYPES[options.format], engine.card.name, width, height, seconds)

    def _open_pair(self, file_a: bytes, file_b: bytes, card: ModelCard) -> tuple[Image.Image, Image.Image]:
        pair = (
            codec.open_image(file_a, "image_a", self._settings.max_pixels),
            codec.open_image(file_b, "image_b", self._settings.max_pixels),
        )
        for image, field in zip(pair, ("image_a", "image_b"), strict=True):
            _check_limits(image, field, card)
        return pair

    def _batcher(self, engine: Engine, device: Device) -> Batcher:
        settings, tiling = self._settings, engine.card.tiling
        # What is too large for the fusion graph as one image is too large for it as a batch, and pairs that run in
        # tiles run one after another anyway: together, each would only wait for all of them.
        most = min(settings.max_batch_pixels, tiling.above_pixels) if tiling else settings.max_batch_pixels
        limits = BatchLimits(
            max_queue=settings.max_queue,
            max_batch=settings.max_batch or (CUDA_BATCH if engine.backend.device == "cuda" else 1),
            max_pixels=most,
            max_wait_s=settings.max_wait_ms / 1000,
        )
        return Batcher(engine.card.name, engine, Share(device), limits, self._telemetry)

    async def _in_pool(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)


def _check_limits(image: Image.Image, field: str, card: ModelCard) -> None:
    """Refuses an image whose size the model cannot take."""
    size = f"{field} is {image.width}×{image.height} pixels"
    if min(image.size) < card.size.min_side:
        raise BadPairError(f"{size}; {card.name} needs at least {card.size.min_side} a side. Send a larger image.")
    if image.width * image.height > card.size.max_pixels:
        raise TooLargeError(f"{size}; {card.name} takes at most {card.size.max_pixels} in all. Send a smaller image.")
    if image.width % card.size.multiple or image.height % card.size.multiple:
        raise BadPairError(
            f"{size}; {card.name} needs sides that are multiples of {card.size.multiple}. Crop the pair."
        )


def _check_pair(first: codec.Decoded, second: codec.Decoded, card: ModelCard, options: FuseOptions) -> None:
    """Refuses a pair of two sizes, and a format that cannot hold the result."""
    (height_a, width_a), (height_b, width_b) = first.luma.shape, second.luma.shape
    if (height_a, width_a) != (height_b, width_b):
        raise BadPairError(
            f"image_a is {width_a}×{height_a} and image_b is {width_b}×{height_b} pixels (upright, by EXIF). "
            f"{card.name} fuses aligned pairs: crop or scale them to the same size.",
            sizes={"image_a": [width_a, height_a], "image_b": [width_b, height_b]},
        )
    codec.check_output_size(options.format, width_a, height_a)


def _jobs(engine: Engine, first: codec.Decoded, second: codec.Decoded, options: FuseOptions) -> list[Job]:
    """Makes one job of both luminances, or one of each channel if colour is there and is to be fused too."""
    if options.color != "rgb" or (first.rgb is None and second.rgb is None):
        return [engine.job(first.luma, second.luma, options.edit)]
    return [engine.job(first.channel(index), second.channel(index), options.edit) for index in range(CHANNELS)]


def _finish(fused: Sequence[Fused], first: codec.Decoded, second: codec.Decoded, options: FuseOptions) -> bytes:
    planes = [each.luma for each in fused]
    if len(planes) == CHANNELS:
        pixels = stack_channels(*planes)
    else:
        pixels = join_color(planes[0], first.rgb, second.rgb, options.color)
    return codec.encode(pixels, options.format, options.quality)
