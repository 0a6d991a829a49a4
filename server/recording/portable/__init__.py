"""Episodes as files: the format of `export` and `import`, and the way from rows to records and back.

One record is one episode. `server/commands/export.py` and `import_.py` read and write the files; `docs/data.md`
documents the fields for users. Keys, owners, plays and lineage stay behind, because they mean nothing to another
server; `runs` is informative only.
"""
