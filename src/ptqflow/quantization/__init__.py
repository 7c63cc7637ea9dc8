"""FX graph mode quantization: the only package that imports torch.ao."""
