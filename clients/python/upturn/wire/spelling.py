"""British keys: earlier versions wrote them into requests, settings files and stored runs, and they are still read.

What is written is always the American key.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

from pydantic import AliasChoices

AMERICAN = {
    "optimiser": "optimizer",
    "normalise_std": "normalize_std",
    "loss_normalisation": "loss_normalization",
}
"""American keys by British key."""

log = logging.getLogger(__name__)


def either_spelling(american: str) -> AliasChoices:
    """Return the names that a field is read from; its own comes first, so schemas show that one."""
    return AliasChoices(american, *(british for british, name in AMERICAN.items() if name == american))


def to_american(fields: Any) -> Any:
    """Return the fields with British keys replaced; anything but a mapping is returned unchanged.

    Raises:
        ValueError: a key is present in both spellings.
    """
    if not isinstance(fields, dict) or AMERICAN.keys().isdisjoint(fields):
        return fields
    for british, american in AMERICAN.items():
        if british in fields:
            if american in fields:
                raise ValueError(f"{american} and {british} are two spellings of one key: give only {american}")
            warn_once(british, american)
    return {AMERICAN.get(key, key): value for key, value in fields.items()}


def to_british(text: str) -> str:
    """Return a JSON text with the keys that earlier versions wrote, byte for byte."""
    for british, american in AMERICAN.items():
        text = text.replace(f'"{american}":', f'"{british}":')
    return text


@functools.cache
def warn_once(british: str, american: str) -> None:
    """Log a warning; once per key and process."""
    log.warning("the key %s of run configs is deprecated: use %s", british, american)
