"""The learner on several processes: launch, communicate, and shard."""
