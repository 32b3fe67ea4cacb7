"""The verifier group: it holds the target, and decides every token."""
