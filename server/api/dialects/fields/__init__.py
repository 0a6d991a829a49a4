"""Every field of every dialect: what the server does with it, checked for each request and listed in docs/api.md."""
