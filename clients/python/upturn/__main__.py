"""`python -m upturn` is the `upturn` command."""

import sys

from upturn.command import main

sys.exit(main())
