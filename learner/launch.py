"""The deprecated name of `python -m learner launch`, which job scripts of users still call."""

from __future__ import annotations

import runpy
import sys
import warnings

if __name__ == "__main__":
    warnings.warn("python -m learner.launch is deprecated: use python -m learner launch", stacklevel=1)
    sys.argv[1:1] = ["launch"]
    runpy.run_module("learner", run_name="__main__", alter_sys=True)
