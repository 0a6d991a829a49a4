"""Tools in the vendors' forms, and as the functions that the model sees."""
