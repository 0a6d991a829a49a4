"""The Upturn server: chat, episodes, plays, the record, batches, runs, policies."""
