"""Fetching published data files. Addresses and checksums are torchvision's; nothing is printed."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from pruning.data.images import Progress
from pruning.errors import PruningError

_TIMEOUT_SECONDS = 30
_CHUNK_BYTES = 1 << 18


def download(urls: Sequence[str], path: Path, md5: str, on_progress: Progress, otherwise: str) -> None:
    """Bring a file from the first of `urls` that answers to `path`, whole and with the right checksum or not
    at all.

    Raises PruningError if none does, with the last one's reason and with `otherwise`, what the user can do
    instead.
    """
    reason = ""
    for url in urls:
        try:
            with _answer(url) as answer, _beside(path) as partial:  # no folder is made for what never comes
                if _copy(answer, partial, f"downloading {path.name}", on_progress) != md5:
                    raise ValueError("what was sent has another checksum than the published file")
            return
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = f"{url}: {getattr(error, 'reason', None) or error}"
    raise PruningError(
        f"{path.name} is not on this machine and could not be downloaded ({reason}); {otherwise}."
    )


def write_whole(path: Path, source: IO[bytes]) -> None:
    """Copy `source` to `path`, whole or not at all."""
    with _beside(path) as partial:
        shutil.copyfileobj(source, partial)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which becomes `path` if all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as partial:
        try:
            yield partial
            partial.flush()
            Path(partial.name).replace(path)
        finally:
            Path(partial.name).unlink(missing_ok=True)


def _answer(url: str) -> Any:
    """What a server sends, to be read and closed."""
    request = urllib.request.Request(url, headers={"User-Agent": "pruning"})
    return urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)


def _copy(answer: Any, target: IO[bytes], what: str, on_progress: Progress) -> str:
    """Copy an answer into a file; the MD5 of it in hexadecimal."""
    digest = hashlib.md5(usedforsecurity=False)
    total = int(answer.headers.get("Content-Length") or 0)
    done = 0
    while chunk := answer.read(_CHUNK_BYTES):
        target.write(chunk)
        digest.update(chunk)
        done += len(chunk)
        on_progress(what, done, total)
    return digest.hexdigest()
