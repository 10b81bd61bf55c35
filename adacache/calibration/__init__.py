"""Schedules found for one model: recorded runs, a simulation of reuse on them, and what a target asks for."""
