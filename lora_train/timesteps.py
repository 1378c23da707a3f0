"""How often each timestep is drawn."""
