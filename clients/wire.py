"""The deprecated name of `upturn.wire`, which reward functions of users still import."""

import logging

from upturn.wire import *  # noqa: F403

logging.getLogger(__name__).warning("clients.wire is deprecated, use upturn.wire")
