"""One module per page. Each reads routes through the viewer and returns a template; each has a `router`."""
