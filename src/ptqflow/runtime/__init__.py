"""An exported model's manifest, the runtimes that execute it, and the machine they run on."""
