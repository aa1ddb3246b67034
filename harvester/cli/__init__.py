"""The command line: click commands, one module per command group, loaded lazily."""
