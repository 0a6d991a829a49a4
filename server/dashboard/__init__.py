"""The dashboard under `/ui/`: pages for people, drawn from the documented routes.

A page calls the server's own routes in process with the key of the person who looks (`inside.py`), so rights are
checked in one place, and a page can show nothing that a script could not read. It keeps no state and writes nothing
except through those routes.

`pages/` has one module per page, `frame.py` renders templates, `login.py` takes the key, `forms.py` guards what changes
something, `problems.py` turns errors into pages, `live.py` sends changes, `assets.py` serves scripts and styles.
"""
