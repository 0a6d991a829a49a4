"""Access: authentication, key limits, the body limit, and errors as HTTP answers."""
