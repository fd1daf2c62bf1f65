"""Where documents come from. One file per kind of source; `SourceConfig` is the union that a preset chooses from."""
