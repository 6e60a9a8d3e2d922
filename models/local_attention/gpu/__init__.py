"""Local attention on GPUs: kernels in Triton, and the operators of torch around them."""
