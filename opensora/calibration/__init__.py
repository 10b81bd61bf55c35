"""Calibrating the sampling pipeline: the clips it samples, and what a calibration leaves behind."""
