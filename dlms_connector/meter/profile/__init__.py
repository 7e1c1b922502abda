"""Load profiles and event logs: columns, selection, rows, the book of rows, the reader and its background task."""
