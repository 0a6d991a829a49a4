"""The environments of open episodes, and plays: episodes that the server itself plays."""
