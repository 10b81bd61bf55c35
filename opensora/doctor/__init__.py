"""What this installation has, and what is wrong with it: `python -m opensora.doctor`."""
