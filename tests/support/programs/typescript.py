"""Makes the TypeScript client's committed files again: `python -m tests.support.programs.typescript` writes them.

`schema.d.ts` comes from the application's OpenAPI schema by openapi-typescript, `upturn.js` and `upturn.d.ts` from
`upturn.ts` by TypeScript, both at the versions that the client's `package.json` pins.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from server.app import create_app
from tests.support.live import settings_for
from tests.support.programs.interpreters import node_modules

CLIENT = Path(__file__).parents[3] / "clients" / "typescript"
SOURCES = ("package.json", "tsconfig.json", "upturn.ts")
MADE = ("schema.d.ts", "upturn.js", "upturn.d.ts")


def modules() -> Path:
    """Return the `node_modules` of the client's generators, which the first call installs."""
    return node_modules("typescript_client", CLIENT / "package.json")


def make(directory: Path) -> dict[str, str]:
    """Make the files in a directory; return their texts by name."""
    for name in SOURCES:
        shutil.copy(CLIENT / name, directory)
    (directory / "openapi.json").write_text(json.dumps(create_app(settings_for(directory / "data")).openapi()))
    found = modules()
    generator, compiler = found / "openapi-typescript" / "bin" / "cli.js", found / "typescript" / "bin" / "tsc"
    options = ["--default-non-nullable=false", "--output", "schema.d.ts"]
    for command in ([generator, "openapi.json", *options], [compiler]):
        done = subprocess.run(["node", *command], cwd=directory, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{command[0].name}: {done.stdout}{done.stderr}")
    return {name: (directory / name).read_text() for name in MADE}


def main() -> int:
    """Write the files; return the exit code."""
    with tempfile.TemporaryDirectory() as directory:
        for name, text in make(Path(directory)).items():
            (CLIENT / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
