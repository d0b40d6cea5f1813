"""Clients, receivers and brokers that try to take Outpost down, each bounded in bytes and seconds."""
