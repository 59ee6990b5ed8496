"""Model families, one file each, and the table that chooses by the folder's `model_index.json`."""
