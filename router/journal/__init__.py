"""The journal: what was promised to clients, where it outlives the router."""
