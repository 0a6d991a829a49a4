"""A small shop with a forum: data, pages, tasks and their solver, all made up for this project.

Only `family.py` knows of browsers; the rest is the site.
"""
