"""mergekit's YAML, read and written where the two overlap; what is beyond is named."""
