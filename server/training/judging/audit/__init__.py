"""The auditor: what rises with the reward that should not, as an objection of the promotion gate."""
