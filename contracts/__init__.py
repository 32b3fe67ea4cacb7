"""What every room agrees on: types, config, errors, clock. Standard library, pydantic and PyYAML only."""
