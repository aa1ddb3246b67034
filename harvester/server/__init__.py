"""An API server that answers like Kraken from an archive, and a sample market to try it with."""
