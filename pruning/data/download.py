"""Fetching published data files. Addresses and checksums are torchvision's; nothing is printed."""

from __future__ import annotations

import hashlib
import http.client
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

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
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                dir=path.parent, prefix=f".{path.name}.", delete=False
            ) as partial:
                try:
                    digest = _copy(url, partial, f"downloading {path.name}", on_progress)
                    if digest == md5:
                        Path(partial.name).replace(path)
                        return
                    reason = f"what {url} sent has another checksum than the published file"
                finally:
                    Path(partial.name).unlink(missing_ok=True)
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = f"{url}: {getattr(error, 'reason', None) or error}"
    raise PruningError(f"{path.name} could not be downloaded ({reason}); {otherwise}.")


def _copy(url: str, target: tempfile._TemporaryFileWrapper[bytes], what: str, on_progress: Progress) -> str:
    """Copy what `url` answers into a file; the MD5 of it in hexadecimal."""
    request = urllib.request.Request(url, headers={"User-Agent": "pruning"})
    digest = hashlib.md5(usedforsecurity=False)
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
        total = int(answer.headers.get("Content-Length") or 0)
        done = 0
        while chunk := answer.read(_CHUNK_BYTES):
            target.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            on_progress(what, done, total)
    target.flush()
    return digest.hexdigest()
