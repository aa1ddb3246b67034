"""What `import harvester` gives: an archive to fill, to ask and to look at."""
