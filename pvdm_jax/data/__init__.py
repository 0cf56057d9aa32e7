"""Videos in: where they come from, which frames and pixels are taken, and how batches are made."""
