"""Flags that locate the database, for commands that need nothing else; the same as for `serve`."""

from __future__ import annotations

import argparse

import migrations
from server.settings import Settings
from server.store.database import Database

FLAGS = {"--config": "FILE", "--data-dir": "DIR", "--database-url": "URL"}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that locate the database."""
    group = parser.add_argument_group("settings", "as for `serve`; environment variables (UPTURN_...) apply too")
    for flag, value in FLAGS.items():
        group.add_argument(flag, metavar=value)


def settings_of(options: argparse.Namespace) -> Settings:
    """Return the settings given by the flags and the environment variables."""
    values = {flag: getattr(options, flag[2:].replace("-", "_")) for flag in FLAGS}
    return Settings.load([f"{flag}={value}" for flag, value in values.items() if value is not None])


def open_database(options: argparse.Namespace) -> Database:
    """Open the database, creating it or bringing it to the newest revision first."""
    settings = settings_of(options)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    database = Database(settings.resolved_database_url)
    migrations.upgrade(database.writer)
    return database
