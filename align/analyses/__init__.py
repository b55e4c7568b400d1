"""What finished runs say together: compared, correlated, in order; from what they recorded, without torch."""
