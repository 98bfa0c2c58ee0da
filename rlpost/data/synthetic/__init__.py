"""Small sets to learn preferences and rewards from, written for this package and made by code.

item.py says what an item is; each set is a file of its own; catalog.py lists them. Which side of
the split an item lies on is decided in evaluation/suites/item.py, as for suites. data/sources/
offers the sets as rows: ``pairs:NAME``, ``judged:NAME`` and ``steps:NAME``.
"""
