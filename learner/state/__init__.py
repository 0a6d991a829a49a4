"""The state of a run: written to checkpoints, and restored when a run or its campaign continues."""
