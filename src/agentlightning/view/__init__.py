"""The one view on spans of every dialect: facts, conversations, trees, totals and bills.

Pure functions over attributes and rows; nothing here reads a store. Import the modules: ``view.facts`` in the worker
of a traced program, the others where spans are read.
"""
