"""How much the accuracy depends on the draw of calibration images."""
