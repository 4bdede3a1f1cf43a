"""Basic terminal output: lines, notes, warnings, errors and tables. In a file the same, without colours."""

from __future__ import annotations

import errno
import os
import sys
from typing import IO, Any, cast

from rich.console import Console as RichConsole
from rich.table import Table
from rich.text import Text

FILE_WIDTH = 160  # columns of tables in a file, so that long names are not cut


class Output:
    """A standard stream that discards output, instead of failing, after its terminal was closed."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._discard_if_closed(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._discard_if_closed(error)

    def _discard_if_closed(self, error: OSError) -> None:
        if error.errno != errno.EIO:
            raise error
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


class Terminal:
    """Standard output and standard error. `quiet` leaves warnings and errors; NO_COLOR switches colours off."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._out = RichConsole(highlight=False, quiet=quiet, file=cast(IO[str], Output(sys.stdout)))
        if not self._out.is_terminal:
            self._out.width = FILE_WIDTH
        self._err = RichConsole(highlight=False, stderr=True, file=cast(IO[str], Output(sys.stderr)))
        self._warned: set[str] = set()

    def close(self) -> None:
        """Remove what moves, such as a progress bar, so that lines can follow."""

    def warning(self, message: str) -> None:
        """Print a warning, once."""
        if message not in self._warned:
            self._warned.add(message)
            self._print_error("warning", message, "yellow")

    def error(self, message: str) -> None:
        """Print an error."""
        self.close()
        self._print_error("error", message, "red")

    def note(self, message: str) -> None:
        """Print a line for the user, such as how to continue."""
        self.close()
        self._out.print(Text(message), soft_wrap=True)

    def table(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
        """Print a table whose first column is never broken into lines."""
        table = plain_table(title)
        for index, column in enumerate(columns):
            table.add_column(column, overflow="fold", no_wrap=index == 0)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self._out.print(table)

    def _line(self, text: str, style: str = "") -> None:
        self._out.print(Text(text, style), soft_wrap=True)

    def _print_error(self, kind: str, message: str, style: str) -> None:
        self._err.print(Text.assemble((f"{kind}: ", f"bold {style}"), message), soft_wrap=True)


def plain_table(title: str) -> Table:
    """An empty table without a frame."""
    return Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
