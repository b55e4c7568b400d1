"""`align mix`: instruction mixes of exact size out of several data sets (docs/mixes.md)."""
