"""Starts and stops the embedded Redis-compatible server and Postgres, and keeps their folder to one process.

Everything here is synchronous and runs in the main thread, before the event loop and after it.
"""
