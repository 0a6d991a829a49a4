"""Where environments run: instances, threads with a time limit, and host processes."""
