"""A small shop with a forum: data, pages, tasks and their solver, all made up for this project.

Only `spec.py` deals with browsers; the other modules are the site.
"""
