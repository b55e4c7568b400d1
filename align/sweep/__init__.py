"""Sweeps: one recipe at many values of its options, each a run of its own that shares with the others all it can."""
