"""What other tools show: episodes as traces, metrics, and learner metrics. Reads the record, and changes nothing."""
