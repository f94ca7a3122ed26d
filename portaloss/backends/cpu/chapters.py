"""The chapters that this backend runs, one for each kind. A chapter is imported when it is first used."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from portaloss.kinds import LossKind


class Chapters(dict[LossKind, Callable[..., Any]]):
    """Maps a kind to the function of its chapter in ``portaloss.reference``."""

    def __missing__(self, kind: LossKind) -> Callable[..., Any]:
        name = kind.name.lower()
        chapter: Callable[..., Any] = getattr(importlib.import_module(f"portaloss.reference.{name}"), name)
        self[kind] = chapter
        return chapter


CHAPTERS = Chapters()
