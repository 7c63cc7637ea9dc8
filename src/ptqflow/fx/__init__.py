"""torch's FX graph mode quantization: prepare, convert, save and load. Only this package imports torch.ao."""
