"""Places processes and keeps them alive: topology, supervision, launch."""
