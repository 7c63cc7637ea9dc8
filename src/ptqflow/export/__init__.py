"""Export of an INT8 model for other runtimes, and the check that each file computes what torch computes."""
