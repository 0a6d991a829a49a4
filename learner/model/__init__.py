"""The model that is trained: its weights, its forward pass on packed rows, and its reference."""
