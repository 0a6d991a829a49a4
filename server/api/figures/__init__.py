"""Routes of figures about models."""
