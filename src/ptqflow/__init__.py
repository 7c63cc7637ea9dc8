"""Post-training quantization of image classifiers."""
