"""Where environments run: instances for an event loop, threads with a time limit, and host processes."""
