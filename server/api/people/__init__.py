"""Routes for what people do with episodes themselves."""
