"""Inference with an exported model; without torch if ONNX Runtime or OpenVINO is installed."""
