"""Any Gymnasium environment, as text."""
