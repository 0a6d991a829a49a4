"""Rehearsals: everything that tonight's runs will need, tried once in the evening."""
