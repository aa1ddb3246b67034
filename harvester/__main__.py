"""`python -m harvester` is `harvester`."""

from harvester.cli.main import main

main()
