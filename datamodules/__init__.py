"""DataModules: named ID and OOD sets as one stream."""
