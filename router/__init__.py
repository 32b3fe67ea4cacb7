"""The front door and the brain: admission, membership, sequences, scheduling, journal."""
