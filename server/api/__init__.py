"""HTTP routes, one file per resource. A route reads its request, calls a service, and returns a message.

Layers, top to bottom: routers; `dialects` (APIs for agents) and `served` (protocols for players of environments);
`access` (keys, limits, errors); `services.py` (which services a route may reach).
"""
