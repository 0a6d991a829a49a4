"""pip's settings for uv, which does not read them: indexes, wheel folders, certificates, proxy, constraints.

They come from `pip config list`: files and PIP_ variables, as pip itself merges them. Variables of uv's own win.
"""

from __future__ import annotations

import ast
import ssl
import subprocess
from collections.abc import Mapping
from pathlib import Path

PLURAL = {"extra-index-url", "find-links", "trusted-host", "constraint"}


def pip_settings(python: str) -> dict[str, list[str]]:
    """Return the settings that pip would use in `pip install`; options such as `find-links` have several values."""
    listed = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    return parse(listed.stdout)


def parse(listed: str) -> dict[str, list[str]]:
    """Read the output of `pip config list`: lines such as `global.index-url='https://...'`."""
    found: dict[str, tuple[int, list[str]]] = {}
    ranks = {"global": 0, "install": 1, ":env:": 2}
    for line in listed.splitlines():
        key, _, literal = line.partition("=")
        section, _, name = key.partition(".")
        try:
            value = str(ast.literal_eval(literal))
        except (ValueError, SyntaxError):
            continue
        rank = ranks.get(section, -1)
        name = name.lower().replace("_", "-")
        if rank >= found.get(name, (0, []))[0]:
            found[name] = (rank, value.split() if name in PLURAL else [value])
    return {name: values for name, (_, values) in found.items()}


def for_uv(pip: Mapping[str, list[str]], own: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that tell uv the same; a variable that `own`, the environment, has is left to it."""
    said: dict[str, str] = {"UV_INDEX_STRATEGY": "unsafe-best-match"}  # As pip: the newest version from any index.
    joined = {name: " ".join(values) for name, values in pip.items()}
    for name, variable in {
        "index-url": "UV_DEFAULT_INDEX",
        "extra-index-url": "UV_INDEX",
        "trusted-host": "UV_INSECURE_HOST",
        "cert": "SSL_CERT_FILE",
        "client-cert": "SSL_CLIENT_CERT",
        "proxy": "ALL_PROXY",
    }.items():
        if joined.get(name):
            said[variable] = joined[name]
    if pip.get("find-links"):
        said["UV_FIND_LINKS"] = ",".join(pip["find-links"])
    timeout = joined.get("timeout") or joined.get("default-timeout")
    if timeout:
        said["UV_HTTP_TIMEOUT"] = timeout
    if joined.get("keyring-provider") in ("subprocess", "import"):
        said["UV_KEYRING_PROVIDER"] = "subprocess"
    if "SSL_CERT_FILE" not in {**said, **own} and has_system_certificates():
        said["UV_SYSTEM_CERTS"] = "1"
    return {variable: value for variable, value in said.items() if variable not in own}


def has_system_certificates() -> bool:
    """Whether the machine has certificates of its own, and with them a company's, if it has one."""
    paths = ssl.get_default_verify_paths()
    return bool(paths.cafile) or bool(paths.capath and any(Path(paths.capath).iterdir()))


def flags(pip: Mapping[str, list[str]], own: Mapping[str, str]) -> list[str]:
    """Return the flags of `uv pip install` for what uv has no variable for, or reads from one place only."""
    files = [*pip.get("constraint", []), *own.get("UV_CONSTRAINT", "").split()]
    said = [flag for file in files for flag in ("--constraint", file)]
    offline = (pip.get("no-index") or ["no"])[0].lower() in ("1", "true", "yes", "on")
    return [*said, *(["--no-index"] if offline else [])]
