"""The algorithms: what each sampled token is worth, and the loss that follows from it. Pure functions of tensors."""
