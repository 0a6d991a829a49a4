"""Our environments behind other people's protocols, so that their trainers and clients can play them.

`agentgym.py`, `openenv.py` and `mcp.py` speak one protocol each; what a guest's episodes are is `guests.py`.
"""

from __future__ import annotations

from server.api.served import agentgym, mcp, openenv

routers = (agentgym.router, openenv.router, mcp.router)
"""All of them; each route says what key it needs. They are other people's protocols, so our schema leaves them out."""
