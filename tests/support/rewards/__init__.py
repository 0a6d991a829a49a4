"""Reward functions and a judge to score episodes with."""
