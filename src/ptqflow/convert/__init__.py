"""From FP32 and statistics to INT8: ranges, weight scales, bias correction, accuracy budget and sensitivity."""
