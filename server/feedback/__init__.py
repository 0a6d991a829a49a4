"""Feedback on live episodes: whose rewards count, and functions and judges that score what agents did."""
