"""`upturn policies`: every version, with its roles and state."""

from __future__ import annotations

from upturn.command.connection import LOCAL, AsJson, Key, Server, connect
from upturn.command.output import print_json, print_table, time_text
from upturn.wire import PolicyView


def policies(server: Server = LOCAL, key: Key = None, as_json: AsJson = False) -> None:
    """List the policy versions, newest first."""
    with connect(server, key) as client:
        found = client.policies().data
    if as_json:
        print_json(found)
        return
    print_table(
        ("version", "kind", "state", "run", "step", "created"),
        [
            (
                policy.id,
                policy.kind,
                state_of(policy),
                policy.run_id or "-",
                "-" if policy.step is None else str(policy.step),
                time_text(policy.created_at),
            )
            for policy in found
        ],
    )


def state_of(policy: PolicyView) -> str:
    """Return a version's roles, and whether its weights are loaded, on disk or deleted."""
    roles = [role for role in ("champion", "canary", "head", "pinned") if getattr(policy, role)]
    return ", ".join([*roles, "loaded" if policy.loaded else "on disk" if policy.kept else "deleted"])
