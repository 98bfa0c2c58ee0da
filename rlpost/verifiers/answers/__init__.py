"""What a response's answer is, and whether it equals a gold. No file here knows of a verifier.

find.py says which part of a response is the answer, notation.py writes both sides in one
notation, reading.py turns that into a value, compare.py compares two values. The values of
plain numbers are exact fractions (quantity.py); golds that are words, choices, times, dates
or based numerals are compared as text (wording.py); only what is left goes to sympy
(formula.py).
"""
