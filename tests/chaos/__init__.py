"""Chaos: whole processes on real stores, faults of every kind from a seeded plan, and the count of everything at
the end. `python -m tests.chaos --seconds 600 --seed N`, or `make chaos`.
"""
