"""The flags by which a command that only needs the database finds it, as `serve` does."""

from __future__ import annotations

import argparse

import migrations
from server.settings import Settings
from server.store.database import Database

FLAGS = {"--config": "FILE", "--data-dir": "DIR", "--database-url": "URL"}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Let a command line say where the database is."""
    group = parser.add_argument_group("settings", "as of `serve`; the environment (UPTURN_...) counts too")
    for flag, value in FLAGS.items():
        group.add_argument(flag, metavar=value)


def settings_of(options: argparse.Namespace) -> Settings:
    """Return the settings that the flags and the environment make."""
    given = {flag: getattr(options, flag[2:].replace("-", "_")) for flag in FLAGS}
    return Settings.load([f"{flag}={value}" for flag, value in given.items() if value is not None])


def open_database(options: argparse.Namespace) -> Database:
    """Open the database that the flags and the environment name, at the newest revision."""
    settings = settings_of(options)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    database = Database(settings.resolved_database_url)
    migrations.upgrade(database.writer)
    return database
