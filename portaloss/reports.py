"""Reports as JSON files: written whole or not at all, and read with an error that names the file."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

LineT = TypeVar("LineT")


class ReportError(ValueError):
    """A file that is no report of the kind and format asked for."""


def write_text(path: Path, text: str) -> None:
    """Write a file as a whole or not at all: a reader finds all of it or none, for it is renamed into place."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)  # a temporary file is its owner's alone; a report is for others
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read(path: Path, line: type[LineT], number: int, what: str) -> tuple[dict[str, Any], list[LineT]]:
    """What a report says beside its lines, and these.

    Args:
        path: the file.
        line: the dataclass of a line; what it does not know, as a later release may have written, is left out.
        number: of the format that is read.
        what: the report's name in errors.

    Raises:
        ReportError: it is no such report, or one of another format.
        OSError: it cannot be read.
    """
    known = {one.name for one in fields(line)}  # type: ignore[arg-type]  # that it is a dataclass no bound can say
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        found = report.pop("format")
        if found != number:
            raise ReportError(f"{path}: the report's format is {found}, this release reads {number}")
        lines = [line(**{name: value for name, value in one.items() if name in known}) for one in report.pop("rows")]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ReportError(f"{path}: not a {what} report ({type(error).__name__}: {error})") from error
    return report, lines


__all__ = ["ReportError", "read", "write_text"]
