"""How close generated clips come to real ones: metrics, embeddings, distances and copies."""
