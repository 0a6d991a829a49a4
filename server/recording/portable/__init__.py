"""Episodes as files: the format of `export` and `import`, and the conversion between rows and records.

One record is one episode. `server/commands/export.py` and `import_.py` read and write the files; `docs/data.md`
documents the fields for users. Keys, owners, plays and lineage are left out, because they mean nothing to another
server; `runs` is informative only.
"""
