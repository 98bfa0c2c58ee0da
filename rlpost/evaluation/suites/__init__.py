"""Small suites of items that are written for this package and made by code.

item.py says what an item is and on which side of the split it lies; each suite is a file of its
own; catalog.py lists them. data/sources/suites.py offers them as rows, ``suite:NAME``.
"""
