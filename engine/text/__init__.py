"""Text and token ids: what the front door needs of a model, without the model. Imports neither torch nor kernels."""
