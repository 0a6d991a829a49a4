"""HTTP routes, one file per resource. A route reads the request, calls one function, and returns a message."""
