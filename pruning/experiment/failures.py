"""Turn a full disk or memory into one sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from pruning.errors import RunStoppedError


@contextlib.contextmanager
def explain_failures() -> Iterator[None]:
    """Raise RunStoppedError with advice in place of errors of memory and files."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise RunStoppedError(
            "Out of memory. Try a smaller --batch-size, or --test-batch-size if it happened during evaluation."
        ) from error
    except BrokenPipeError:
        raise  # the terminal is closed, so there is no one to read an explanation
    except OSError as error:
        raise RunStoppedError(
            f"{error.filename or 'The output'}: {error.strerror or error}. Everything saved before is intact. "
            "Fix the cause and run the same command again to resume."
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    """On CUDA torch has an exception class for it, elsewhere only the message differs."""
    phrases = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc")
    message = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(one in message for one in phrases)
