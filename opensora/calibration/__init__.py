"""Finding schedules for a model: recording runs, trying schedules, and what a calibration holds for."""
