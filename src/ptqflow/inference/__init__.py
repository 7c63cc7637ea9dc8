"""An exported model at work, without torch where ONNX Runtime or OpenVINO is installed."""
