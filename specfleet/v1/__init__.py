"""The wire types of specfleet, generated from protos/ by `make protos`. Do not edit."""
