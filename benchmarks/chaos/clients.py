"""The clients of the chaos test: two thirds are good, the others wrong, slow, or gone before the end.

Client number n of a seed always does the same, whatever happens to the others.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from benchmarks.chaos import files, forms
from benchmarks.chaos.files import Pair
from benchmarks.chaos.wire import Leaving, Sending

MAX_UPLOAD_BYTES = 2 * 2**20
UPLOAD_TIMEOUT_S = 1.5
# What the service must be started with: a small bound and a short patience, so that both are met often.
SETTINGS = {"max_upload_bytes": MAX_UPLOAD_BYTES, "upload_timeout_s": UPLOAD_TIMEOUT_S}
GOOD_SHARE = 2 / 3
DRIPS = 6

Maker = Callable[[Random], Sending]


def client(seed: int, number: int) -> Sending:
    """Returns what client ``number`` does."""
    random = Random(f"{seed}/{number}")
    if random.random() < GOOD_SHARE:
        return random.choice(GOOD)(random)
    return random.choice(random.choice(TROUBLE))(random)


def good_request() -> Sending:
    """Returns a request whose answer must be the same before and after everything else."""
    return _answered("reference", forms.parts_of(files.valid_pair(Random(0)), {"format": "png"}), 200)


def _answered(kind: str, parts: list[forms.Part], *statuses: int) -> Sending:
    return Sending(kind, (forms.whole(forms.form(parts)),), frozenset(statuses))


def _good(random: Random) -> Sending:
    fields = {
        "format": random.choice(("png", "jpeg", "webp", "tiff")),
        "quality": random.randint(1, 100),
        "effort": random.choice(("fast", "small", "smallest")),
        "color": random.choice(("auto", "a", "b", "none", "rgb")),
        "range16": random.choice(("stretch", "full")),
    }
    chosen = {name: value for name, value in fields.items() if random.random() < 0.5}
    return _answered("good", forms.parts_of(files.valid_pair(random), chosen), 200)


def _chunked(random: Random) -> Sending:
    body = forms.form(forms.parts_of(files.valid_pair(random)))
    pieces = (forms.head(None), forms.chunked(body, random.randint(100, 5000)))
    return Sending("good, in chunks", pieces, frozenset({200}))


def _one_bad(kind: str, make: Callable[[Random, bytes], bytes], *statuses: int) -> Maker:
    """Returns a maker of a pair of which one file is replaced by a bad one."""

    def maker(random: Random) -> Sending:
        pair = files.valid_pair(random)
        pair = Pair(make(random, pair.a), pair.b) if random.random() < 0.5 else Pair(pair.a, make(random, pair.b))
        return _answered(kind, forms.parts_of(pair), *statuses)

    return maker


def _truncated(random: Random, data: bytes) -> bytes:
    return data[: round(len(data) * random.uniform(0.3, 0.9))]


def _nonsense(random: Random, _: bytes) -> bytes:
    return random.choice((b"", b"plain text\n" * 30, bytes(500), random.randbytes(500)))


def _other_type(_: Random, __: bytes) -> bytes:
    return b"GIF89a" + bytes(50)


def _bomb(random: Random, _: bytes) -> bytes:
    return random.choice((files.png_bomb, files.bmp_bomb, files.tiff_bomb))()


def _two_sizes(random: Random) -> Sending:
    return _answered("two sizes", forms.parts_of(files.pair_of_two_sizes(random)), 422)


def _too_small(_: Random) -> Sending:
    small = files.picture(files.TOO_SMALL, "PNG", deep=False)
    return _answered("too small", forms.parts_of(Pair(small, small)), 422)


def _bad_field(random: Random) -> Sending:
    name, value = random.choice(
        (("color", "blue"), ("format", "gif"), ("quality", "0"), ("effort", "9"), ("range16", ""), ("colour", "a"))
    )
    return _answered("bad field", forms.parts_of(files.valid_pair(random), {name: value}), 422)


def _unknown_model(random: Random) -> Sending:
    return _answered("unknown model", forms.parts_of(files.valid_pair(random), {"model": "no-such-model"}), 404)


def _missing_part(random: Random) -> Sending:
    parts = forms.parts_of(files.valid_pair(random))
    return _answered("missing part", random.sample(parts, random.randint(0, 1)), 400, 422)


def _field_twice(random: Random) -> Sending:
    parts = forms.parts_of(files.valid_pair(random))
    return _answered("field twice", [*parts, parts[0]], 422)


def _too_many_parts(random: Random) -> Sending:
    parts = forms.parts_of(files.valid_pair(random), {f"field{number}": number for number in range(40)})
    return _answered("too many parts", parts, 400)


def _nameless_part(random: Random) -> Sending:
    parts = [*forms.parts_of(files.valid_pair(random)), (b"Content-Disposition: form-data", b"x")]
    return _answered("nameless part", parts, 400)


def _bad_boundary(random: Random) -> Sending:
    body = forms.form(forms.parts_of(files.valid_pair(random)))
    content_type = random.choice(("multipart/form-data", "multipart/form-data; boundary=another"))
    return Sending("bad boundary", (forms.whole(body, content_type),), frozenset({400}))


def _never_closed(random: Random) -> Sending:
    body = forms.form(forms.parts_of(files.valid_pair(random)))[: -len(forms.end())]
    return Sending("boundary never closed", (forms.whole(body),), frozenset({400}))


def _wrong_type(random: Random) -> Sending:
    content_type = random.choice(("application/json", "text/plain", "application/x-www-form-urlencoded"))
    return Sending("wrong type of body", (forms.whole(b'{"image_a": 1}', content_type),), frozenset({415}))


def _announced_too_large(_: Random) -> Sending:
    return Sending("too large, announced", (forms.head(2**30),), frozenset({413}))


def _too_large(random: Random) -> Sending:
    body = forms.form([forms.file_part("image_a", bytes(MAX_UPLOAD_BYTES + random.randint(1, 2**18)))])
    return Sending("too large, in chunks", (forms.head(None), forms.chunked(body, 2**16)), frozenset({413}))


def _no_http(random: Random) -> Sending:
    line = random.choice((b"\x16\x03\x01\x02\x00\x01", b"HELLO\r\n\r\n", b"POST /fuse HTTP/9.9\r\n\r\n"))
    return Sending("no HTTP", (line,), frozenset({400}), counted=False)


def _slow(random: Random) -> Sending:
    pieces = forms.cut(forms.whole(forms.form(forms.parts_of(files.valid_pair(random)))), DRIPS)
    # In time on any machine but one that stands still.
    return Sending("slow", pieces, frozenset({200, 408}), pause_s=UPLOAD_TIMEOUT_S / (4 * DRIPS))


def _stalled(random: Random) -> Sending:
    request = forms.whole(forms.form(forms.parts_of(files.valid_pair(random))))
    return Sending("stalled", (request[: -random.randint(1, 200)],), frozenset({408}))


def _too_slow(random: Random) -> Sending:
    pieces = forms.cut(forms.whole(forms.form(forms.parts_of(files.valid_pair(random)))), DRIPS)
    return Sending("too slow", pieces, frozenset({408}), pause_s=2 * UPLOAD_TIMEOUT_S / DRIPS)


def _gone_in_the_head(random: Random) -> Sending:
    begun = forms.head(1000)
    piece = begun[: random.randint(1, len(begun) - 1)]
    return Sending("gone in the head", (piece,), frozenset(), leaves="after sending", counted=False)


def _gone_in_the_body(random: Random) -> Sending:
    body = forms.form(forms.parts_of(files.valid_pair(random)))
    piece = forms.head(len(body)) + body[: random.randrange(len(body))]
    return Sending("gone in the body", (piece,), frozenset(), leaves="after sending")


def _gone_after(leaves: Leaving, kind: str) -> Maker:
    def maker(_: Random) -> Sending:
        request = forms.whole(forms.form(forms.parts_of(files.large_pair())))
        return Sending(kind, (request,), frozenset({200}), leaves=leaves)

    return maker


GOOD: tuple[Maker, ...] = (_good, _good, _good, _chunked)
WRONG_FILES: tuple[Maker, ...] = (
    _one_bad("truncated image", _truncated, 400),
    _one_bad("no image", _nonsense, 400),
    _one_bad("another type of image", _other_type, 415),
    _one_bad("bomb", _bomb, 413),
    _two_sizes,
    _too_small,
)
WRONG_FORMS: tuple[Maker, ...] = (
    *(_bad_field, _unknown_model, _missing_part, _field_twice, _too_many_parts, _nameless_part),
    *(_bad_boundary, _never_closed, _wrong_type, _announced_too_large, _too_large, _no_http),
)
SLOW: tuple[Maker, ...] = (_slow, _stalled, _too_slow)
GONE: tuple[Maker, ...] = (
    _gone_in_the_head,
    _gone_in_the_body,
    _gone_after("after sending", "gone before the answer"),
    _gone_after("half", "closed its sending half"),
    _gone_after("amid the answer", "gone amid the answer"),
)
TROUBLE = (WRONG_FILES, WRONG_FORMS, WRONG_FILES, WRONG_FORMS, SLOW, GONE)
