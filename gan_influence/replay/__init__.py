"""A function of tensors as the plain list of operations that it performs: made, cut in two, captured on CUDA."""
