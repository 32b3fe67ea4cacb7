"""What the router counts, and how Prometheus reads it."""
