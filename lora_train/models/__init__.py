"""Models as they lie on disk: what is where in a file or folder, and what it says about itself."""
