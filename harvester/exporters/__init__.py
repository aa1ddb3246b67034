"""Write trades and candles to files: row formats, and the layouts of freqtrade and LEAN."""
