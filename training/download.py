"""The command ``download``: fetch official TiTok weights, with resume and checksum."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

from tqdm import tqdm

from training.data.images import DataError

if TYPE_CHECKING:
    import httpx

FILE = "model.safetensors"
SOURCE = "SOURCE.json"
ENDPOINT = "https://huggingface.co"
LICENCE = "Apache-2.0 by the model card; the authors note that it was trained on ImageNet only and is for research"

ATTEMPTS = 5
"""Connections in a row that may fail without bringing a single byte."""
PAUSE_S = 2.0
REDIRECTS = 5
HEADER_LIMIT = 1 << 20
"""Most bytes that the header of a safetensors file may add to its values."""


@dataclass(frozen=True)
class Published:
    """A published model: its repository on the hub, and its parameters, all stored as float32."""

    repo: str
    parameters: int


PUBLISHED = {
    "titok-l32": Published("yucornetto/tokenizer_titok_l32_imagenet", 641_054_735),
    "titok-b64": Published("yucornetto/tokenizer_titok_b64_imagenet", 204_814_095),
    "titok-s128": Published("yucornetto/tokenizer_titok_s128_imagenet", 83_674_639),
}


@dataclass(frozen=True)
class Remote:
    """A file on the hub, pinned to one commit.

    Attributes:
        url: Address of exactly this version.
        revision: Commit of the repository.
        sha256: Checksum that the hub states.
        size: Bytes that the hub states.
    """

    url: str
    revision: str
    sha256: str
    size: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m training download``."""
    parser.add_argument("model", choices=sorted(PUBLISHED), help="which published tokenizer")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder; an interrupted fetch goes on")
    parser.add_argument("--revision", default="main", help="branch, tag or commit of the repository (default: main)")
    parser.epilog = "HF_ENDPOINT sets another hub, such as a mirror; the usual proxy variables are respected."


def run(args: argparse.Namespace) -> None:
    """Fetch and say where the file is."""
    remote = download(PUBLISHED[args.model], args.out, revision=args.revision)
    print(f"{args.out / FILE}: {remote.size:,} bytes, sha256 {remote.sha256}, revision {remote.revision}")
    print(f"licence: {LICENCE}")
    print(f"use it with --tokenizer {args.out}")


def download(model: Published, out: Path, *, revision: str = "main") -> Remote:
    """Fetch a published model into a folder, beside a record of where it came from.

    A fetch that was cut off leaves a partial file, from which the next one goes on. A whole file that is there
    already is only checked.

    Args:
        model: Which.
        out: Folder; made if needed.
        revision: Branch, tag or commit.

    Raises:
        DataError: The hub cannot be reached, does not have it, or describes or sends another file; the disk is full;
            or the folder holds another file of that name.
    """
    httpx = _httpx()
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or ENDPOINT
    try:
        out.mkdir(parents=True, exist_ok=True)
        with httpx.Client(timeout=30.0, headers={"Accept-Encoding": "identity"}) as client:
            remote = describe(client, endpoint, model, revision)
            if not _is_there(out / FILE, remote):
                fetch(client, remote, out / FILE)
    except OSError as error:
        raise DataError(
            f"cannot write to {out}: {error.strerror}; what was fetched stays: run it again to go on"
        ) from error
    except httpx.HTTPError as error:
        raise DataError(
            f"cannot reach {endpoint}: {error}. Set HF_ENDPOINT to a mirror, or fetch {FILE} of {model.repo} "
            "by other means and give its path as --tokenizer"
        ) from error
    _record(out / SOURCE, model, remote)
    return remote


def describe(client: httpx.Client, endpoint: str, model: Published, revision: str) -> Remote:
    """Ask the hub which commit a revision is, and for the size and checksum of the file there.

    Raises:
        DataError: The hub does not have it, states no checksum, or its size is not that of the model.
    """
    url = f"{endpoint}/{model.repo}/resolve/{revision}/{FILE}"
    response = client.head(url)
    for _ in range(REDIRECTS):  # from a renamed repository, but not on to the storage, which knows no checksums
        if response.next_request is None or "x-linked-etag" in response.headers:
            break
        response = client.send(response.next_request)
    if response.is_error:
        raise DataError(f"{url}: the hub answers {response.status_code} {response.reason_phrase}; try --revision main")
    sha256 = response.headers.get("x-linked-etag", "").removeprefix("W/").strip('"')
    size, commit = response.headers.get("x-linked-size", ""), response.headers.get("x-repo-commit", revision)
    if not re.fullmatch("[0-9a-f]{64}", sha256) or not size.isdecimal():
        raise DataError(f"{url}: the hub states no sha256 and size, so that the file could not be checked")
    values = 4 * model.parameters
    if not values < int(size) <= values + HEADER_LIMIT:
        raise DataError(f"{url}: the hub's file has {int(size):,} bytes, the model needs {values:,} and a small header")
    return Remote(f"{endpoint}/{model.repo}/resolve/{commit}/{FILE}", commit, sha256, int(size))


def fetch(client: httpx.Client, remote: Remote, path: Path) -> None:
    """Fetch a file, going on from what an earlier try left; it appears under its name only when whole and right.

    Raises:
        DataError: The connection keeps failing (the partial file stays), or the file is not the stated one (it is
            removed).
        OSError: It cannot be written.
    """
    httpx = _httpx()
    partial = path.with_name(f"{path.name}.{remote.sha256[:12]}.partial")
    begun = partial.stat().st_size if partial.exists() else 0
    if shutil.disk_usage(path.parent).free < remote.size - begun:
        raise DataError(f"{path.parent} has no room for the {remote.size - begun:,} bytes that are to come")
    failures = 0
    with tqdm(total=remote.size, initial=begun, unit="B", unit_scale=True, dynamic_ncols=True) as bar:
        while (before := partial.stat().st_size if partial.exists() else 0) < remote.size:
            trouble = "the connection was closed"
            try:
                _append(client, remote, partial, bar)
            except httpx.TransportError as error:
                trouble = str(error) or type(error).__name__
            failures = 0 if partial.exists() and partial.stat().st_size > before else failures + 1
            if failures == ATTEMPTS:
                raise DataError(f"stopped at {before:,} of {remote.size:,} bytes ({trouble}): run it again to go on")
            if failures:
                time.sleep(PAUSE_S)
    if _sha256(partial) != remote.sha256:
        partial.unlink()
        raise DataError(f"what {remote.url} sent has another sha256 than the hub states; it was removed: fetch it anew")
    os.replace(partial, path)


def _append(client: httpx.Client, remote: Remote, partial: Path, bar: tqdm[NoReturn]) -> None:
    """Ask for the rest of the file once and write what comes."""
    begun = partial.stat().st_size if partial.exists() else 0
    headers = {"Range": f"bytes={begun}-"} if begun else {}
    with client.stream("GET", remote.url, headers=headers, follow_redirects=True) as response:
        if response.is_error:
            raise DataError(f"{remote.url}: the server answers {response.status_code} {response.reason_phrase}")
        goes_on = response.status_code == 206 and response.headers.get("content-range", "").startswith(
            f"bytes {begun}-"
        )
        if not goes_on:  # the server does not know ranges: from the start
            begun = 0
        bar.n = begun
        with partial.open("ab" if goes_on else "wb") as file:
            for chunk in response.iter_raw():
                begun += len(chunk)
                if begun > remote.size:
                    file.truncate(0)
                    raise DataError(f"{remote.url} sends more than the stated {remote.size:,} bytes; fetch it anew")
                file.write(chunk)
                bar.update(len(chunk))


def _is_there(path: Path, remote: Remote) -> bool:
    if not path.exists():
        return False
    if path.stat().st_size == remote.size and _sha256(path) == remote.sha256:
        return True
    raise DataError(f"{path} is another file than the hub's: move it away, or choose another --out")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _record(path: Path, model: Published, remote: Remote) -> None:
    record = {
        "repository": model.repo,
        "revision": remote.revision,
        "url": remote.url,
        "file": FILE,
        "bytes": remote.size,
        "sha256": remote.sha256,
        "date": time.strftime("%Y-%m-%d"),
        "licence": LICENCE,
    }
    path.write_text(json.dumps(record, indent=1) + "\n")


def _httpx() -> ModuleType:
    try:
        import httpx  # noqa: PLC0415
    except ImportError as error:
        raise DataError(
            "download needs httpx: pip install 'httpx>=0.28', or this project with its extra hub"
        ) from error
    return httpx
