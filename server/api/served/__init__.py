"""This server's environments behind foreign protocols, so that other trainers and clients can play them.

`agentgym.py`, `openenv.py`, `mcp.py` and `retrieve.py` each implement one protocol. `guests.py` holds what they share.
"""

from __future__ import annotations

from server.api.served import agentgym, mcp, openenv

routers = (agentgym.router, openenv.router, mcp.router)
"""Routers that the OpenAPI schema leaves out, since their protocols are specified elsewhere."""
