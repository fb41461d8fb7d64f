"""From images to embeddings: what a net expects of its pixels, what it takes and gives."""
