"""Writes the table of fields into docs/api.md: `python -m server.api.dialects.fields.page docs/api.md`."""

from __future__ import annotations

import sys
from pathlib import Path

from server.api.dialects.fields.table import FIELDS, Fields, Use

BEGIN = (
    "<!-- Written by `python -m server.api.dialects.fields.page docs/api.md`; edit the table in the code instead. -->"
)
END = "<!-- End of the table of fields. -->"
_MEANING: dict[Use, str] = {"honored": "honored", "neutral": "accepted, no effect", "refused": "refused"}


def with_table(page: str) -> str:
    """Return the page with the present table between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n{END}{after}"


def table() -> str:
    """Return the fields of all dialects, and notes on some."""
    rows = [
        f"| {dialect} | {_MEANING[use]} | {_names(fields, use)} |"
        for dialect, fields in FIELDS.items()
        for use in _MEANING
    ]
    notes: dict[tuple[str, Use, str], list[str]] = {}
    for dialect, fields in FIELDS.items():
        for name, field in sorted(fields.items()):
            if field.note:
                notes.setdefault((name, field.use, field.note), []).append(dialect)
    noted = [
        f"| `{name}` | {', '.join(dialects)} | {_MEANING[use]} | {note} |"
        for (name, use, note), dialects in sorted(notes.items())
    ]
    return "\n".join(
        [
            "| dialect | | fields |",
            "|---|---|---|",
            *rows,
            "",
            "| field | dialects | | note |",
            "|---|---|---|---|",
            *noted,
            "",
        ]
    )


def _names(fields: Fields, use: Use) -> str:
    return ", ".join(f"`{name}`" for name, field in sorted(fields.items()) if field.use == use)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_table(path.read_text()))
