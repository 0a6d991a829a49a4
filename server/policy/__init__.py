"""Policies: engines that sample, rendering of messages to tokens, routing to versions, and the hot swap."""
