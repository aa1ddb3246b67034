"""Files of an archive: segments, coverage, locks, compaction and the writer of each pair."""
