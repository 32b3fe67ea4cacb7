"""The service beside its peers on this machine: `python -m benchmarks.peers --help`."""
