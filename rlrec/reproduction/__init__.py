"""The papers' tables and figures from one command: described, planned, made and written.

Only `recipes/reproduce.py` and commands above it import this package.
"""
