"""What samples tokens: vLLM, transformers in this process, or a script (step 3 of the straight line)."""
