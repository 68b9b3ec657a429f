from __future__ import annotations

import io
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHUNK = 64 * 1024


@pytest.fixture
def good(any_service, pair):
    """Checks, after the test, that the next good request is served as the one before the test was."""
    before = any_service.fuse(*pair)
    assert before.status_code == 200
    yield any_service
    after = any_service.fuse(*pair)
    assert (after.status_code, after.content) == (200, before.content)


def problem(response, status, *words):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == status
    assert document["title"]
    assert document["request_id"] == response.headers["x-request-id"]
    for word in words:
        assert word in document["detail"]
    return document


def bomb_file():
    header = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (header, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("side", ["image_a", "image_b"])
@pytest.mark.parametrize(
    ("make", "status", "words"),
    [
        (lambda _: b"", 400, "is empty"),
        (lambda _: b"this is a text file\n" * 40, 400, "not an image"),
        (lambda data: data[: len(data) // 2], 400, "truncated"),
        (lambda _: bomb_file(), 413, "50000×50000 = 2500000000 pixels"),
        (lambda _: b"GIF89a" + bytes(50), 415, "PNG, JPEG, WEBP, TIFF, BMP"),
    ],
)
def test_bad_files(good, pair, *, side, make, status, words):
    files = dict(zip(("image_a", "image_b"), pair, strict=True))
    files[side] = make(files[side])
    problem(good.fuse(*files.values()), status, side, words)


def test_too_small(good, to_file):
    one = to_file(np.zeros((1, 1), np.uint8))
    problem(good.fuse(one, one), 422, "1×1", "Send a larger image")


def test_two_sizes(good, pair, picture, to_file):
    document = problem(good.fuse(pair[0], to_file(picture(50, 64, 1, color=False))), 422, "64×48", "64×50")
    assert document["sizes"] == {"image_a": [64, 48], "image_b": [64, 50]}


def test_exif_orientation_counts_for_the_size(good, pair, picture, to_file):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = to_file(picture(64, 48, 1, color=False), "JPEG", exif=exif)
    assert good.fuse(pair[0], turned).status_code == 200


@pytest.mark.parametrize("mode", ["LA", "P", "RGBA", "1", "CMYK", "I;16"])
def test_unusual_kinds_of_pixels_give_a_picture(good, pair, picture, to_file, mode):
    if mode == "I;16":
        data = to_file(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64))
    else:
        image = Image.fromarray(picture(48, 64, 1, color=True)).convert(mode)
        data = to_file(image, "TIFF" if mode == "CMYK" else "PNG")
    response = good.fuse(data, pair[1])
    assert response.status_code == 200
    assert Image.open(io.BytesIO(response.content)).size == (64, 48)


@pytest.mark.parametrize("missing", ["image_a", "image_b"])
def test_missing_image(good, pair, missing):
    files = {name: ("f", data) for name, data in zip(("image_a", "image_b"), pair, strict=True) if name != missing}
    document = problem(good.client.post("/fuse", files=files), 422, missing, "curl -F")
    assert document["errors"][0]["field"] == missing


def test_text_instead_of_a_file(good, pair):
    response = good.client.post("/fuse", files={"image_a": (None, "path.png"), "image_b": ("b", pair[1])})
    problem(response, 400, "image_a is not an image")


@pytest.mark.parametrize("value", ["-1", "3", "nan", "inf", "x", ""])
@pytest.mark.parametrize("field", ["strength", "sharpen", "smooth"])
def test_bad_strength(good, pair, field, value):
    document = problem(good.fuse(*pair, **{field: value}), 422, field, "a number from 0 to 2")
    assert document["errors"] == [{"field": field, "allowed": "a number from 0 to 2"}]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("color", "blue"),
        ("format", "gif"),
        ("quality", "0"),
        ("quality", "101"),
        ("effort", "best"),
        ("effort", ""),
        ("range16", "x"),
        ("strenght", "1"),
    ],
)
def test_bad_fields(good, pair, field, value):
    problem(good.fuse(*pair, **{field: value}), 422, field, "Allowed:")


def test_strength_without_slots(service, pair):
    problem(service.fuse(*pair, model="plain", strength=1), 422, "plain has no edit slots")


def test_a_field_given_twice(good, pair):
    files = [
        ("image_a", ("a", pair[0])),
        ("image_b", ("b", pair[1])),
        ("color", (None, "a")),
        ("color", (None, "b")),
    ]
    problem(good.client.post("/fuse", files=files), 422, "color", "twice")


def test_a_field_that_is_too_long(good, pair):
    problem(good.fuse(*pair, color="a" * 2000), 422, "color", "at most 1024 bytes")


def test_too_many_fields(good, pair):
    problem(good.fuse(*pair, **{f"field{index}": 1 for index in range(40)}), 400, "more than 32 parts")


def test_unknown_model(good, pair):
    document = problem(good.fuse(*pair, model="titan"), 404, "'titan'")
    assert document["known"]
    problem(good.client.get("/models/titan"), 404, document["known"][0])


def test_other_bodies(good):
    problem(good.client.post("/fuse", json={"image_a": "x"}), 415, "multipart/form-data")
    problem(good.client.post("/fuse"), 415, "multipart/form-data")
    form = {"Content-Type": "multipart/form-data"}
    problem(good.client.post("/fuse", content=b"x", headers=form), 400, "boundary")
    form = {"Content-Type": "multipart/form-data; boundary=abc"}
    problem(good.client.post("/fuse", content=b"nonsense", headers=form), 400, "malformed")
    problem(good.client.post("/fuse", content=b"--abc\r\n", headers=form), 400, "closing boundary")
    nameless = b"--abc\r\nContent-Disposition: form-data\r\n\r\nx\r\n--abc--\r\n"
    problem(good.client.post("/fuse", content=nameless, headers=form), 400, "no name")


def test_unknown_paths_and_methods(good):
    problem(good.client.get("/nowhere"), 404, "/nowhere", "/docs")
    response = good.client.get("/fuse")
    problem(response, 405, "does not take GET")
    assert response.headers["allow"] == "POST"


def huge_body(total):
    """Yields a form of a given length that never ends its first file."""
    head = b'--abc\r\nContent-Disposition: form-data; name="image_a"; filename="a"\r\n\r\n'
    yield head
    for start in range(len(head), total, CHUNK):
        yield bytes(min(CHUNK, total - start))


def peak_memory(service):
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def test_a_huge_body_is_refused_and_never_held(good):
    headers = {"Content-Type": "multipart/form-data; boundary=abc"}
    total = 300 * 2**20
    before = peak_memory(good)
    announced = headers | {"Content-Length": str(total)}
    response = good.client.post("/fuse", content=huge_body(total), headers=announced, timeout=60)
    problem(response, 413, str(total), str(64 * 2**20), "PAIRFUSE_MAX_UPLOAD_BYTES")
    response = good.client.post("/fuse", content=huge_body(total), headers=headers, timeout=60)
    problem(response, 413, str(64 * 2**20))
    # The second body is read up to the limit; twice that is room for the buffers of its parts.
    assert peak_memory(good) - before < 150 * 2**20


def test_large_files_stay_off_the_disk(service, picture):
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "BMP")
    body = b"--abc\r\n" + b'Content-Disposition: form-data; name="image_a"; filename="a"\r\n\r\n' + buffer.getvalue()
    head = "POST /fuse HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=abc\r\n"
    head += f"Content-Length: {len(body) + 100}"
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(f"{head}\r\n\r\n".encode() + body)
        service.until(lambda: service.metric("pairfuse_inflight") == 1)
        assert written_files(service) == []
    service.until(lambda: service.metric("pairfuse_inflight") == 0)


def written_files(service):
    """Returns the regular files that the process has open for writing, its log aside."""
    found = []
    for entry in Path(f"/proc/{service.process.pid}/fdinfo").iterdir():
        flags = int(entry.read_text().split("flags:")[1].split()[0], 8)
        target = (entry.parent.parent / "fd" / entry.name).readlink()
        if flags & 3 and str(target).startswith("/") and target != service.log and not str(target).startswith("/dev"):
            found.append(str(target))
    return found
