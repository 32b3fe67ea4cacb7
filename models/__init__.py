"""The demo family: a target, its specialised drafters, the recipe that makes them, and the means to make them big."""
