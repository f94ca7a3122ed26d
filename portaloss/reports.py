"""Reports as JSON files: written completely or not at all, and read with errors that name the file."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

LineT = TypeVar("LineT")


class ReportError(ValueError):
    """A file is not a report of the expected kind and format."""


def write_text(path: Path, text: str) -> None:
    """Write a file completely or not at all: a temporary file is written and renamed."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)  # a temporary file is readable by its owner only
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read(path: Path, line: type[LineT], number: int, what: str) -> tuple[dict[str, Any], list[LineT]]:
    """The fields of a report beside its lines, and the lines.

    Args:
        path: the file.
        line: the dataclass of a line; fields that it does not have, as of a later release, are dropped.
        number: the format that is read.
        what: the report's name in errors.

    Raises:
        ReportError: the file is not such a report, or has another format.
        OSError: the file cannot be read.
    """
    known = {one.name for one in fields(line)}  # type: ignore[arg-type]  # a TypeVar cannot be bound to dataclasses
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
