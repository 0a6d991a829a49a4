"""How `run.py` installs. Standard library only: it runs before anything is installed.

`machine.py` says what this machine can run, `pip_settings.py` hands pip's settings to uv, `progress.py` runs a command
and prints what it does, `packages.py` installs the packages in an order that works with PyPI alone, and `venv_lock.py`
keeps two processes from changing `.venv` at once.
"""
