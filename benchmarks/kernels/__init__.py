"""Each kernel beside its torch reference: `python -m benchmarks.kernels`. One file a kernel, named as the kernel's."""
