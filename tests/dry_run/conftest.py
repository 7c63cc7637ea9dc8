from quantizing import _engine_of_its_own  # noqa: F401
