"""Download trades: missing ranges are requested as pages, merged, and written as segments."""
