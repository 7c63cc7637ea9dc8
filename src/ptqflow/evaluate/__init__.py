"""FP32 and INT8 on the test images: figures, predictions and the significance of the difference."""
