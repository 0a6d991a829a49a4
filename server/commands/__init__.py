"""The commands of `python -m server`, one module each, with `run(arguments) -> exit code`."""
