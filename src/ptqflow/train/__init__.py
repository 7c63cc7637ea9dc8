"""Training of the FP32 network, on one device or several."""
