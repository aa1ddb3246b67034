"""Operations: nightly refresh, scheduler templates, and the log of runs."""
