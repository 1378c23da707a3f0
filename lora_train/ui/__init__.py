"""What faces show and ask: routes of our own and the page that talks to them; no logic of training."""
