"""Annotation of model answers, and what every other room stands on: records, journal, limits, backends."""
