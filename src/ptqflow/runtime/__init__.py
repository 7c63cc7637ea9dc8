"""The manifest of an exported model, what torch computed at export, and the runtimes that open its files."""
