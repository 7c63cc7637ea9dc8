"""Files of an INT8 model for other runtimes, and the proof that they compute what torch computes."""
