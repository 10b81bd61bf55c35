"""Calibrated schedules for one model: recorded runs, a simulation of reuse on them, and what a user asks for."""
