"""A small shop with a forum: its data, its pages, its tasks and their solver. Everything here is our own and made up.

It knows nothing of browsers; `env_adapters/shop.py` shows it to one.
"""
