"""The drafter node: one drafter that follows sequences and pushes what it finds."""
