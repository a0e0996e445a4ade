"""Its presence puts this folder on the path, so that every benchmark finds `limits`."""
