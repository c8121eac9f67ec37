"""Reports: pages, charts, tables and words."""
