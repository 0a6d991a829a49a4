"""The same, in threads of the server."""

from tests.support.environments import odd


class Family(odd.Family):
    """Its family."""

    name = "odd-thread"
    isolation = "thread"


def make_family() -> Family:
    return Family()
