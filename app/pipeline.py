"""The one straight line from two files to one file; the server and the command line both go through it.

open → decode → (reduce) → (queue) → encode codes → fuse → (guide) → colour → encode. What is not the model
runs in a pool of threads, the model in the thread of its batcher, and nothing of it on the event loop. The
model fuses luminance, or red, green and blue as three pairs; of a pair that is larger than the working size
it sees a reduced copy.
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
from app.cache import image_key
from app.card import ModelCard
from app.catalog import Catalog
from app.color import CHANNELS, Plane, join_color, stack_channels
from app.deadlines import TIMEOUT_HEADER
from app.engine import Engine, Job
from app.errors import BadPairError, DeadlineError, TooLargeError
from app.gate import Gate
from app.guided import enlarge
from app.options import FuseOptions
from app.settings import Settings
from app.telemetry import Telemetry
from app.turns import Device
from app.waiting import BatchLimits
from app.working import Size, fitting_side, reduce_plane, working_size

T = TypeVar("T")
# What the model sees of one image, a plane for each run, and their cache keys.
Seen = list[tuple[Plane, bytes]]

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
        working: Size at which the model saw the pair.
        seconds: Time of each stage in their order: decode, queue, encode_code, fuse, guide if the model saw a reduced
            copy, encode; queue ends with the first run, the two after it are sums over all runs.
    """

    body: bytes
    media_type: str
    model: str
    width: int
    height: int
    working: Size
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
        await asyncio.gather(*(batcher.stop() for batcher in self._batchers.values()))
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
        images = await self._in_pool(self._open_pair, file_a, file_b, engine.card, options.max_side)
        # Whether there is colour shows only when the pixels are read, and then room must have been held.
        held = CHANNELS if options.color == "rgb" else 1
        with self._gate.hold_pixels(held * sum(image.width * image.height for image in images)):
            (first, seen_a), (second, seen_b) = await asyncio.gather(
                self._in_pool(_read, engine, images[0], "image_a", options),
                self._in_pool(_read, engine, images[1], "image_b", options),
            )
            _check_pair(first, second, engine.card, options)
            native = Size(*first.shape)
            working = working_size(native, options.max_side, engine.card.size)
            channels = _channels(first, second, options)
            if options.color == "rgb":
                seen_a, seen_b = await asyncio.gather(
                    self._in_pool(_seen, engine, first, channels, working),
                    self._in_pool(_seen, engine, second, channels, working),
                )
            jobs = [
                Job(a, b, options.edit, (key_a, key_b)) for (a, key_a), (b, key_b) in zip(seen_a, seen_b, strict=True)
            ]
            decoded = time.perf_counter()
            results = await batcher.submit(*jobs, expires_at=expires_at)
            ran = time.perf_counter()
            fused = [result.luma for result, _ in results]
            if working != native:
                todo = zip(channels, jobs, fused, strict=True)
                fused = await asyncio.gather(*(self._in_pool(_enlarge, first, second, *each) for each in todo))
            guided = time.perf_counter()
            body = await self._in_pool(_finish, fused, first, second, options)
        runs = {waited: result for result, waited in results}  # Jobs that waited equally long shared a run.
        seconds = {
            "decode": decoded - started,
            "queue": min(runs),
            "encode_code": sum(run.encode_s for run in runs.values()),
            "fuse": sum(run.fuse_s for run in runs.values()),
            **({"guide": guided - ran} if working != native else {}),
            "encode": time.perf_counter() - guided,
        }
        self._telemetry.observe_stages(seconds)
        self._telemetry.pixels.inc(native.pixels)
        media_type = codec.MEDIA_TYPES[options.format]
        return FuseResult(body, media_type, engine.card.name, native.width, native.height, working, seconds)

    def _open_pair(
        self, file_a: bytes, file_b: bytes, card: ModelCard, max_side: int
    ) -> tuple[Image.Image, Image.Image]:
        pair = (
            codec.open_image(file_a, "image_a", self._settings.max_pixels),
            codec.open_image(file_b, "image_b", self._settings.max_pixels),
        )
        for image, field in zip(pair, ("image_a", "image_b"), strict=True):
            _check_limits(image, field, card, max_side)
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
            lanes=engine.backend.runs,
            rest_after_s=settings.rest_after_s,
        )
        return Batcher(engine.card.name, engine, device, limits, self._telemetry)

    async def _in_pool(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)


def _check_limits(image: Image.Image, field: str, card: ModelCard, max_side: int) -> None:
    """Refuses an image that the model cannot take at its working size."""
    size = f"{field} is {image.width}×{image.height} pixels"
    if min(image.size) < card.size.min_side:
        raise BadPairError(f"{size}; {card.name} needs at least {card.size.min_side} a side. Send a larger image.")
    native = Size(image.height, image.width)
    working = working_size(native, max_side, card.size)
    if working.pixels > card.size.max_pixels:
        side = fitting_side(native, card.size)
        cure = "Send a smaller image" + (f", or max_side={side} to have it see a reduced copy" if side else "")
        raise TooLargeError(f"{size}; {card.name} takes at most {card.size.max_pixels} in all. {cure}.")
    if working.width % card.size.multiple or working.height % card.size.multiple:
        raise BadPairError(
            f"{size}; {card.name} needs sides that are multiples of {card.size.multiple}. Crop the pair."
        )


def _check_pair(first: codec.Decoded, second: codec.Decoded, card: ModelCard, options: FuseOptions) -> None:
    """Refuses a pair of two sizes, and a format that cannot hold the result."""
    (height_a, width_a), (height_b, width_b) = first.shape, second.shape
    if (height_a, width_a) != (height_b, width_b):
        raise BadPairError(
            f"image_a is {width_a}×{height_a} and image_b is {width_b}×{height_b} pixels (upright, by EXIF). "
            f"{card.name} fuses aligned pairs: crop or scale them to the same size.",
            sizes={"image_a": [width_a, height_a], "image_b": [width_b, height_b]},
        )
    codec.check_output_size(options.format, width_a, height_a)


def _channels(first: codec.Decoded, second: codec.Decoded, options: FuseOptions) -> Sequence[int | None]:
    """Returns what of the pair is fused: None is luminance, 0 to 2 are red, green and blue where there is colour."""
    if options.color != "rgb" or (first.rgb is None and second.rgb is None):
        return (None,)
    return range(CHANNELS)


def _plane(image: codec.Decoded, channel: int | None) -> Plane:
    return image.luma if channel is None else image.channel(channel)


def _read(engine: Engine, image: Image.Image, field: str, options: FuseOptions) -> tuple[codec.Decoded, Seen]:
    """Decodes one image, and prepares what the model sees of it unless that depends on the other one."""
    decoded = codec.decode(image, field, options.range16)
    if options.color == "rgb":
        return decoded, []
    working = working_size(Size(*decoded.shape), options.max_side, engine.card.size)
    return decoded, _seen(engine, decoded, (None,), working)


def _seen(engine: Engine, image: codec.Decoded, channels: Sequence[int | None], working: Size) -> Seen:
    """Returns what the model sees of one image for each channel, with its cache key."""
    if image.rgb is None and len(channels) > 1:  # The one plane is reduced and hashed once.
        return _seen(engine, image, channels[:1], working) * len(channels)
    planes = (_plane(image, channel) for channel in channels)
    seen = [plane if working == plane.shape else reduce_plane(plane, working) for plane in planes]
    return [(plane, image_key(plane) if engine.needs_codes else b"") for plane in seen]


def _enlarge(first: codec.Decoded, second: codec.Decoded, channel: int | None, job: Job, fused: Plane) -> Plane:
    """Brings a fused channel to the size of the pair."""
    return enlarge(_plane(first, channel), _plane(second, channel), job.a, job.b, fused)


def _finish(planes: Sequence[Plane], first: codec.Decoded, second: codec.Decoded, options: FuseOptions) -> bytes:
    if len(planes) == CHANNELS:
        pixels = stack_channels(*planes)
    else:
        pixels = join_color(planes[0], first.rgb, second.rgb, options.color)
    return codec.encode(pixels, options.format, options.quality, options.effort)
