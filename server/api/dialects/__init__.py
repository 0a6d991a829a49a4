"""The APIs that agents call. Each dialect reads its requests, shows answers whole or streamed, and writes errors.

To add one, write a module with a `dialect` and name it in `registry.py`. It translates its request into a
`ChatRequest`, and `Conversations` takes the turns.
"""
