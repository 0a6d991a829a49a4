"""The odd environment in the server's event loop."""

from tests.support.environments import odd


class InlineSpec(odd.OddSpec):
    """Its spec."""

    name = "odd/inline:x"
    isolation = "inline"


def make_spec() -> InlineSpec:
    return InlineSpec()
