pytest_plugins = ["small_run"]
