"""The SQL store: tables, connections, and the one writer thread."""
