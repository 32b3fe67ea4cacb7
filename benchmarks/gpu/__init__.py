"""Everything about a GPU in one run: `python -m benchmarks.gpu`. Kernels beside float64 and their floors, an engine
in the shape of an 8B model, and Hugging Face beside it."""
