"""Long-lived processes that dial in to the router: the drafter node and the verifier group."""
