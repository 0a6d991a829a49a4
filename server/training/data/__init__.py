"""The data of a learner step: the tasks that are played, the episodes that are selected, and their samples."""
