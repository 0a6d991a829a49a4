"""`python -m server doctor MODEL`: checks a model, the engine and the database before training, one line per check.

`server/doctor/` checks the model and the engine; this file locates the model, checks the database, and prints.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

import migrations
from server.assembly import build_policy
from server.doctor.checks import Check, judge, model_checks
from server.doctor.engine_checks import engine_checks
from server.errors import UpturnError
from server.metrics import RECENT
from server.models.source import resolve_model
from server.recording.trainable import summary
from server.settings import Settings
from server.store.database import Database
from server.store.tables import TurnRow

LEARNER_PACKAGES = ("torch", "transformers", "peft", "safetensors")


def run(settings: Settings, *, quick: bool = False, as_json: bool = False) -> int:
    """Run the checks; return the exit code: 1 if any of them failed, 2 if the engine has no model."""
    if settings.engine.kind == "scripted":
        print("doctor: the scripted engine has no model to examine: choose another --engine.kind", file=sys.stderr)
        return 2
    try:
        checks = asyncio.run(_examine(settings, quick=quick, lines=not as_json))
    except KeyboardInterrupt:
        print("doctor: interrupted", file=sys.stderr)
        return 130
    failed = sum(check.result == "fail" for check in checks)
    if as_json:
        print(
            json.dumps(
                {"model": settings.model, "passed": not failed, "checks": [asdict(c) for c in checks]},
                ensure_ascii=False,
            )
        )
    else:
        print(f"{settings.model}: " + (f"{failed} of {len(checks)} checks failed" if failed else "no check failed"))
    return 1 if failed else 0


async def _examine(settings: Settings, *, quick: bool, lines: bool) -> list[Check]:
    """Make all checks, printing each as it completes."""
    checks = []
    async for check in _all(settings, quick):
        checks.append(check)
        if lines:
            advice = f" -> {check.advice}" if check.advice else ""
            print(f"{check.result}  {check.name:15}  {check.figure}{advice}", flush=True)
    return checks


async def _all(settings: Settings, quick: bool) -> AsyncIterator[Check]:
    schema = schema_check(settings.resolved_database_url)
    yield schema
    if schema.result == "pass":
        yield turns_check(settings.resolved_database_url)
    data_dir = settings.data_dir.absolute()
    try:
        base = resolve_model(settings.model, (settings.models_dir or data_dir / "models").absolute())
    except UpturnError as error:
        yield Check("model files", "fail", error.message)
        return
    for check in model_checks(base, settings.renderer, settings.model):
        yield check
    missing = [name for name in LEARNER_PACKAGES if find_spec(name) is None]
    if quick or settings.engine.url or missing:
        yield Check(
            "engine",
            "skip",
            "skipped by --quick"
            if quick
            else f"not installed: {', '.join(missing)}"
            if missing
            else f"{settings.engine.url} may be serving, and the checks would swap its weights",
            "" if quick else "run `python3 run.py setup`" if missing else "omit --engine.url",
        )
        return
    data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="doctor-", dir=data_dir) as folder:
        own = settings.model_copy(update={"model": str(base), "data_dir": Path(folder)})
        print("starting the engine, which may take a minute ...", file=sys.stderr, flush=True)
        async for check in engine_checks(lambda: build_policy(own), Path(folder), own.engine.max_lora_rank):
            yield check


def schema_check(url: str) -> Check:
    """Compare the database's revision with the newest one, changing nothing."""
    name, advice = "database schema", "python -m server migrate"
    file = sa.make_url(url).database if url.startswith("sqlite") else None
    if file and not Path(file).is_file():
        return Check(name, "skip", f"{file} does not exist yet", "serving creates it")
    database = Database(url)
    try:
        with database.reader.connect() as connection:
            newest = ScriptDirectory.from_config(migrations.config(connection)).get_current_head()
            current = MigrationContext.configure(connection).get_current_revision()
    except sa.exc.SQLAlchemyError as error:
        return Check(name, "fail", str(error).splitlines()[0], "name the server's --data-dir or --database-url")
    finally:
        database.close()
    return judge(name, current == newest, f"revision {current}, the newest is {newest}", advice)


def turns_check(url: str) -> Check:
    """Say how many of the newest recorded turns cannot be trained on, and why."""
    database = Database(url)
    try:
        with database.read() as session:
            newest = sa.select(TurnRow.untrainable_reason).order_by(TurnRow.id.desc()).limit(RECENT)
            reasons = session.execute(newest).scalars().all()
    except sa.exc.SQLAlchemyError as error:
        return Check("recent turns", "fail", str(error).splitlines()[0], "name the server's --database-url")
    finally:
        database.close()
    untrainable = Counter(reason for reason in reasons if reason is not None)
    return Check("recent turns", "pass", summary(len(reasons), untrainable))
