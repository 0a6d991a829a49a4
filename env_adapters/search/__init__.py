"""Deep search: questions answered by searching a corpus."""
