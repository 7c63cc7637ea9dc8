"""`ptqflow.quantize`: a network and images to an exported INT8 model in one call, without DVC."""
