"""Image sequences, in and out, in the shape of clips and segments."""
