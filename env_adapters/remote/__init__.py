"""Remote environments by URL: AgentGym, OpenEnv, and MCP."""
