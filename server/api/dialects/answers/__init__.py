"""What every dialect shows of an answer: its parts, its end, and the logprobs of its tokens."""
