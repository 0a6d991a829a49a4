"""Policy versions: publish, promote, route, keep, and delete them (steps 11 and 12 of the straight line)."""
