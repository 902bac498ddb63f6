"""The commands vcut and vcut-export: parse, build a config, call one function, show what came of it."""
