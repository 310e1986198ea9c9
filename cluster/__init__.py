"""Infrastructure: Ray, object storage, tables, and records of finished stages. It knows nothing about sound."""
