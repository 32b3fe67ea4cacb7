"""One model on one device group."""
