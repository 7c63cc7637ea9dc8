"""The stored data set, and normalization with torch and with NumPy."""
