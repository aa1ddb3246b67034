"""Answers as Kraken does, from an archive; and a made-up market to try them with."""
