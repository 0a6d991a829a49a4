"""The same, in the server's event loop."""

from tests.support.environments import odd


class Family(odd.Family):
    """Its family."""

    name = "odd/inline:x"
    isolation = "inline"


def make_family() -> Family:
    return Family()
