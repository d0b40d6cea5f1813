"""Benchmarks that need what only the tests have. `make bench-destinations` measures what one delivery of each type
costs, beside the bare library of its service; `outpost bench` measures a whole server."""
