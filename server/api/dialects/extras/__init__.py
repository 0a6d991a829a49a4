"""Routes that clients call in addition to the dialects: token ids, and APIs that this server does not have."""
