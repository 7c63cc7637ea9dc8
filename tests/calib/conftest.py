from quantizing import _engine_of_its_own, function, inputs, network, statistics, statistics_dir  # noqa: F401
