"""Scorers: reward functions and judges that score live episodes. How rewards count is decided in `server/rewards`."""
