"""Download a published data set with torchvision, which has its addresses and checksums."""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from pruning.data.images import Progress
from pruning.errors import PruningError

TIMEOUT_SECONDS = 30


def download(
    name: str,
    fetch: Callable[[Path], object],
    files: Sequence[str | Path],
    root: Path,
    on_progress: Progress,
    archive: tuple[str, str] | None = None,
) -> None:
    """Download the data set `name` and move `files` into `root`, each of them whole.

    Args:
        fetch: a download of torchvision; called with the folder to download and extract into.
        files: files or folders to keep, as paths in that folder; they get the same paths in `root`.
        archive: path and MD5 of the published archive; if `root` has it, it is extracted, not downloaded.

    Raises:
        PruningError: without a network, for another checksum, or for a damaged archive in `root`.
    """
    on_progress(f"downloading {name}", 0, 1)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=root, prefix=".download-") as partial, _silent(), _timeout():
            if archive is not None:
                _link_archive(root, Path(partial), *archive)
            fetch(Path(partial))
            for file in files:
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                (Path(partial) / file).replace(root / file)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        names = ", ".join(Path(file).name for file in files)
        raise PruningError(
            f"{name} is not in {root} and could not be downloaded ({reason}). "
            f"Put {names} into one folder and name it with --data."
        ) from error
    on_progress(f"downloading {name}", 1, 1)


def _link_archive(root: Path, partial: Path, name: str, md5: str) -> None:
    """Link the archive in `root`, if there is one, to where torchvision looks for it."""
    from torchvision.datasets.utils import check_integrity

    archive = root / name
    if not archive.is_file():
        return
    # torchvision would download through the link and overwrite the user's file.
    if not check_integrity(archive, md5):
        raise PruningError(
            f"{archive} is damaged or not the published archive (its MD5 is not {md5}). "
            "Remove it to download the archive."
        )
    (partial / name).parent.mkdir(parents=True, exist_ok=True)
    (partial / name).symlink_to(archive.absolute())


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Suppress torchvision's progress bars: only the command line prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _timeout() -> Iterator[None]:
    """Give up on a silent server; torchvision sets no timeout, so a firewall would block it for minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
