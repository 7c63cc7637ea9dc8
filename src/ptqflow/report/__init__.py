"""The report: one HTML file of all that the stages found."""
