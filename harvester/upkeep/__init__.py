"""What keeps an archive up to date without anybody looking."""
