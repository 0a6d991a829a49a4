"""What an environment's state was at each step, as drawings, from the record alone: observations, actions and info."""
