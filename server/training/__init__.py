"""The server's side of learning: runs, batches, selection, the schedule. The learner itself is another process."""
