"""Intervals, clusters, long-run variance, calibration."""
