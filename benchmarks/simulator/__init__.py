"""A fleet on a virtual clock: the service's own scheduler, with workers that answer from recordings and cost models."""
