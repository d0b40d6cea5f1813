"""The delivery protocol of streams.md, checked exhaustively for small worlds.

`state` is one partition of Redis, `scripts` are the Lua scripts, `log_rules` is the fold of the log with the
invariants, `processes` is everything that calls the scripts, `scenarios` are the worlds that are searched.
"""
