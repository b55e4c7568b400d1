"""What finished runs say together, compared, correlated, in order, and what training sets ask; without torch."""
