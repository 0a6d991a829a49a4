"""The learner: leases batches over HTTP, trains, publishes weights. It never touches the database."""
