"""What a client of an Upturn server needs: the messages, the manifest of published weights, and a Python client."""
