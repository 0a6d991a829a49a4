"""ScienceWorld: science experiments in a text world."""
