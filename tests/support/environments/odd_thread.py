"""The odd environment in threads of the server."""

from tests.support.environments import odd


class ThreadSpec(odd.OddSpec):
    """Its spec."""

    name = "odd-thread"
    isolation = "thread"


def make_spec() -> ThreadSpec:
    return ThreadSpec()
