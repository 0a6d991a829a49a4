"""`upturn policies export VERSION DIR`: a version as a model that transformers, peft and vLLM load, with its card.

The server may be running: weights never change. The directory appears complete or not at all: it is renamed from
`DIR.unfinished` at the end.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from sqlalchemy.orm import Session

import migrations
from server.commands.database import open_existing_database
from server.commands.model_card import model_card
from server.errors import BadRequest
from server.models.standalone import copy_adapter, copy_model, merge, public_name
from server.settings import Settings
from server.store.tables import PolicyVersionRow
from server.versions import ledger, rows


def run(
    settings: Settings, *, version: str, directory: Path, adapter: bool = False, base: str | None = None, as_json: bool
) -> int:
    """Export a version; return the exit code.

    Args:
        settings: say where the database is.
        version: `champion`, `head`, a number, or `NAME@` followed by one of them.
        directory: directory to create.
        adapter: write the adapter alone instead of adding it to the base's weights.
        base: what card and adapter call the base; default: its name on the hub or its directory.
        as_json: print JSON.

    Raises:
        BadRequest: the directory exists, the version has no adapter, or files are missing.
        NotFound: the version does not exist, or its weights have been deleted.
    """
    database = open_existing_database(settings)
    try:
        migrations.known_revision(database.reader)
        if directory.exists() or directory.is_symlink():
            raise BadRequest(f"{directory} exists: name a new directory")
        with database.read() as session:
            row = rows.ready(session, number_of(session, version))
            base_path = Path(session.get_one(PolicyVersionRow, 0).path)
            named = base or public_name(base_path)
            card = model_card(session, row, base=named or base_path.name, on_hub=named is not None, adapter=adapter)
    finally:
        database.close()
    if adapter and row.kind != "adapter":
        what = "the base model" if row.kind == "base" else "trained as full weights"
        raise BadRequest(f"version {row.version} is {what} and has no adapter: omit --adapter")
    unfinished = directory.with_name(directory.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # Left by an export that was killed.
    unfinished.mkdir(parents=True)
    try:
        if adapter:
            copy_adapter(Path(row.path), base_path, named or str(base_path), unfinished)
        elif row.kind == "adapter":
            print(f"adding the adapter of version {row.version} to {base_path} ...", file=sys.stderr, flush=True)
            merge(base_path, Path(row.path), unfinished)
        else:
            copy_model(Path(row.path), unfinished)
        (unfinished / "README.md").write_text(card, encoding="utf-8")
        unfinished.rename(directory)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    size = sum(file.stat().st_size for file in directory.iterdir())
    kind = "adapter" if adapter else "model"
    if as_json:
        facts = {"version": row.version, "kind": kind, "directory": str(directory), "bytes": size}
        print(json.dumps(facts, ensure_ascii=False))
    else:
        print(f"{directory}: {row.name}@{row.version} as {kind}, {size / 2**20:.1f} MiB")
    return 0


def number_of(session: Session, text: str) -> int:
    """Return the version that a name means.

    Raises:
        BadRequest: it is not a version's name.
    """
    which = text.rpartition("@")[2]
    if which == "champion":
        return ledger.champion(session)
    if which == "head":
        return ledger.head(session)
    if which.isascii() and which.isdecimal() and len(which) < 10:
        return int(which)
    raise BadRequest(f"{text!r} is not a version: name champion, head, or a number as `upturn policies` lists them")
