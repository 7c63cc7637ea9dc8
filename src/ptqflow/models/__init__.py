"""The classifier: its architecture, the user's weights, the FP32 artifact."""
