"""The manifest of published weights: a version's files and their hashes. Standard library only.

A directory of weights is complete when its `manifest.json` exists and every hash in it is correct: the learner writes
the manifest last, the server verifies it first.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


class ManifestError(ValueError):
    """The directory does not match its manifest."""


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(directory: Path, facts: dict[str, Any]) -> str:
    """Hash every file in `directory`, write `manifest.json` atomically, and return the manifest's own SHA-256."""
    files = {
        path.name: {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        for path in sorted(directory.iterdir())
        if path.is_file() and path.name != MANIFEST
    }
    text = json.dumps({**facts, "files": files}, indent=2, sort_keys=True)
    unfinished = directory / f".{MANIFEST}.part"
    unfinished.write_text(text)
    os.replace(unfinished, directory / MANIFEST)
    return hashlib.sha256(text.encode()).hexdigest()


def verify_manifest(directory: Path, expected_sha256: str) -> dict[str, Any]:
    """Check the manifest's own hash and every file it lists; return the manifest.

    Raises:
        ManifestError: the manifest or a file is missing or changed, or a file is not listed.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise ManifestError(f"{directory} has no {MANIFEST}")
    if sha256_of(path) != expected_sha256:
        raise ManifestError(f"the SHA-256 of {path} is not the announced {expected_sha256}")
    manifest: dict[str, Any] = json.loads(path.read_text())
    present = {p.name for p in directory.iterdir() if p.is_file()} - {MANIFEST}
    if present != set(manifest["files"]):
        raise ManifestError(
            f"{directory} contains {sorted(present)}, but its manifest lists {sorted(manifest['files'])}"
        )
    for name, entry in manifest["files"].items():
        if sha256_of(directory / name) != entry["sha256"]:
            raise ManifestError(f"the SHA-256 of {directory / name} is not the one in its manifest")
    return manifest
