"""What papers report, under their setups, on the simulator: baselines and ours as configurations of one mechanism."""
