"""Where the work runs and where its results lie: Ray, object storage, tables, records of finished stages. Knows nothing
about sound."""
