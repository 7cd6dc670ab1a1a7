"""Models that can be served: format, writer, calibration."""
