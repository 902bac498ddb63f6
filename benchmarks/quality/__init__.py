"""Quality beside speed: vcut against stock, in pairs."""
